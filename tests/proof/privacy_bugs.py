"""Bugs planted in redaction and erasure (`tests.proof.planted_bugs`): name, file, right, wrong, who must notice."""

_ERASED = "tests/system/test_erasure.py::test_after_an_erasure_no_byte_of_the_caller_is_left"

PRIVACY_BUGS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "what was not redacted is stored all the same",
        "gateway/intake/accept.py",
        "if call_log.redaction != self._redactions.of(tenant):",
        "if False:",
        ("tests/intake/test_redaction.py::test_what_was_not_redacted_as_its_tenant_has_it_is_not_stored",),
    ),
    (
        "imported dead letters are stored as they were exported",
        "gateway/operations/transfer.py",
        "            return await self._rules.redacted(document, owner.tenant)\n",
        "            return None\n",
        ("tests/intake/test_redaction.py::test_what_is_imported_is_redacted",),
    ),
    (
        "summaries and digest are made of the call log as it came",
        "gateway/intake/parse.py",
        "            posted = document_of(msgspec.structs.replace(again, nonfinite_numbers=top.nonfinite_numbers))\n",
        "            document_of(again)\n",
        ("tests/intake/test_redaction.py::test_nothing_that_the_rules_find_is_stored",),
    ),
    (
        "escapes hide a number",
        "gateway/intake/redaction.py",
        """json.loads(f'"{written}"', strict=False) if escaped else written""",
        "written",
        ("tests/intake/test_redaction.py::test_only_what_the_rules_find_is_replaced",),
    ),
    (
        "a card is one whatever its check digit",
        "uploaders/redaction/finders.py",
        "_is_luhn(sums, begin, end) and _ISSUERS.fullmatch(digits, begin, end)",
        "_ISSUERS.fullmatch(digits, begin, end)",
        ("tests/uploaders/test_redaction.py::test_what_only_looks_like_personal_data_stays",),
    ),
    (
        "free pages keep what was deleted from the spool",
        "spool/admin/erasure.py",
        "        while await self._writer.submit(partial(vacuum, keep_bytes=0)):\n            continue\n",
        "",
        (_ERASED,),
    ),
    (
        "the write-ahead log keeps what was deleted",
        "spool/admin/erasure.py",
        "return await asyncio.to_thread(self._writer.empty_log, WIPE_SECONDS)",
        "return True",
        (_ERASED,),
    ),
    (
        "free pages keep what was deleted from a store",
        "uploaders/stores/sqlite/connection.py",
        'while free := writing.execute("PRAGMA freelist_count")[0][0]:',
        "while free := 0:",
        ("tests/stores/test_sqlite.py::test_nothing_of_an_erased_call_is_left_in_the_files",),
    ),
    (
        "an erasure is written down when it is over",
        "gateway/operations/erasure.py",
        "                await self._erasures.order(every)\n",
        "",
        (
            _ERASED,
            "tests/system/test_erasure.py::test_an_erasure_that_is_killed_is_finished_by_the_next_one",
        ),
    ),
    (
        "a number erases the calls of the same ids of other tenants",
        "gateway/operations/erasure.py",
        "OwnedCall(call_id, None if self._tenants is None and not tenant else tenant)",
        "OwnedCall(call_id)",
        ("tests/system/test_erasure.py::test_a_number_is_found_in_every_writing_and_of_its_own_tenant_alone",),
    ),
    (
        "objects are sent without the customer's key",
        "uploaders/s3/object.py",
        "    if options.customer_key is None:\n        return CustomerKey()",
        "    if options.customer_key is not None:\n        return CustomerKey()",
        ("tests/s3/test_encryption.py::test_an_object_is_read_with_the_key_and_by_nobody_else",),
    ),
    (
        "a server that ignores the customer's key has delivered",
        "uploaders/s3/client.py",
        "if self._options.customer_key is not None and algorithm is None:",
        "if False:",
        ("tests/s3/test_encryption.py::test_a_server_that_ignores_the_key_gets_nothing_delivered",),
    ),
    (
        "a pattern means the edge of the document where it says that of a text",
        "uploaders/redaction/finders.py",
        "return _OF_A_WHOLE.isdisjoint(_SYNTAX.findall(expression))",
        "return True",
        ("tests/intake/test_redaction.py::test_a_pattern_that_names_the_edge_of_a_text_is_matched_with_each_alone",),
    ),
    (
        "a detail is sent although its dead core was given up",
        "spool/queue/retention.py",
        "if needs and waits(one) and goes_first(expired, one):",
        "if False:",
        ("tests/spool/test_expiry.py::test_dead_letters_are_given_up_after_their_own_time",),
    ),
)
