-- Documents of usual size stay in their rows, two to a page at least: moved out, one of 2 KB became two chunks and two
-- entries of another index, a fifth of the time of a batch. Larger ones are moved out as before.

alter table call_parts set (toast_tuple_target = 4080);

insert into store_version (version) values (7);
