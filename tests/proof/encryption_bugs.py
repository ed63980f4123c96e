"""Bugs to be planted in the encryption: name, file, what stands there once, what takes its place, who notices it."""

_TESTS = "tests/spool/test_encryption.py::"
_SEALED = "tests/spool/test_sealed_file.py::"
_STAGING = "tests/intake/test_encrypted_staging.py::"

ENCRYPTION_BUGS = (
    (
        "the nonce of a key is used again",
        "spool/payload/frames.py",
        'return self.position.to_bytes(12, "big")',
        "return bytes(12)",
        (_TESTS + "test_no_key_encrypts_two_payloads_and_no_nonce_comes_twice",),
    ),
    (
        "two payloads have one key",
        "spool/payload/frames.py",
        "return cls(new_key())",
        'return cls(b"k" * 32)',
        (_TESTS + "test_no_key_encrypts_two_payloads_and_no_nonce_comes_twice",),
    ),
    (
        "the key of what ended is kept",
        "spool/keys.py",
        "                os.pwrite(self._descriptor, bytes(_SLOT_BYTES), epoch.slot * _SLOT_BYTES)",
        "                pass",
        (_TESTS + "test_a_key_is_gone_when_its_record_has_ended",),
    ),
    (
        "an agent's token is stored plain",
        "spool/db/tokens.py",
        "        if not self._keys.enabled:\n            return token, None",
        "        if self._keys is not None:\n            return token, None",
        (_TESTS + "test_what_is_stored_is_encrypted_and_what_is_read_is_what_came",),
    ),
    (
        "a frame is authenticated without its place",
        "spool/payload/frames.py",
        'return f"{self.fragment} {self.index} {self.count}".encode()',
        'return b""',
        (_TESTS + "test_a_frame_counts_only_at_its_place",),
    ),
    (
        "a key is wrapped for any record",
        "spool/payload/frames.py",
        'return b"record " + uid.encode("utf-8", "surrogatepass")',
        'return b"record "',
        (_TESTS + "test_payloads_that_changed_records_are_refused",),
    ),
    (
        "the end of a record is forgotten by a kill",
        "spool/keys.py",
        '                os.pwrite(self._descriptor, b"\\1", epoch.slot * _SLOT_BYTES + _ENDED_AT)',
        "                pass",
        (_TESTS + "test_a_kill_before_the_shredding_is_made_up_for",),
    ),
    (
        "another main key starts a new spool over the old one",
        "spool/keys.py",
        "    if missing:\n        wanted",
        "    if missing and not ring.keys:\n        wanted",
        (_TESTS + "test_a_wrong_or_missing_key_is_an_error_that_changes_nothing",),
    ),
    (
        "a staging file is written plain",
        "gateway/intake/staging.py",
        "        self._sealed = SealedFile(descriptor) if sealed else None\n",
        "        self._sealed = None\n",
        (_STAGING + "test_a_body_that_hangs_half_way_cannot_be_read",),
    ),
    (
        "the plain copy of a staging file has a name",
        "gateway/intake/staging.py",
        "        with tempfile.TemporaryFile(dir=self.directory, buffering=0) as file:",
        "        with tempfile.NamedTemporaryFile(dir=self.directory, buffering=0, delete=False) as file:",
        (_STAGING + "test_what_memory_has_no_room_for_lies_in_a_file_without_a_name",),
    ),
    (
        "a body in memory is spilled to the disk to be redacted",
        "gateway/intake/staging.py",
        "        in_memory = self.encrypts and (has_memory or self.hold_for(len(data)))\n",
        "        in_memory = False\n",
        (_STAGING + "test_a_body_in_memory_that_another_process_redacts_stays_in_memory",),
    ),
    (
        "the nonce of a staging file is used again",
        "spool/payload/sealed_file.py",
        'return number.to_bytes(12, "big")',
        "return bytes(12)",
        (
            _SEALED + "test_no_file_has_the_key_of_another_and_no_nonce_comes_twice",
            _SEALED + "test_a_change_is_noticed",
        ),
    ),
    (
        "all staging files have one key",
        "spool/payload/sealed_file.py",
        "cipher(new_key())",
        'cipher(b"k" * 32)',
        (_SEALED + "test_no_file_has_the_key_of_another_and_no_nonce_comes_twice",),
    ),
    (
        "a database whose keys were left behind is taken for damaged",
        "spool/salvage/reader.py",
        " and not self._keys.has_file:",
        " and self._keys is None:",
        (_TESTS + "test_a_database_without_its_keys_is_not_taken_for_damaged",),
    ),
    (
        "fsck does not miss keys that are gone",
        "spool/fsck/checks.py",
        "if epoch not in there)",
        "if epoch is None)",
        (_TESTS + "test_fsck_finds_keys_that_are_gone",),
    ),
    (
        "an export is plain where the key is in the variable",
        "gateway/cli/dead.py",
        "    if given:\n        return split_tokens(given)\n",
        "    if given:\n        return []\n",
        ("tests/cli/test_dead_files.py::test_an_export_is_encrypted_with_the_key_that_the_gateway_has",),
    ),
)
