-- Times as they go out (RFC 3339, in UTC). To make a datetime of each row's, and text of it again, was a sixth of what
-- a page of fifty posts cost the service. A body of one expression, so that PostgreSQL puts it in the call's place.
create function rfc3339(instant timestamptz) returns text
language sql
stable
parallel safe
return to_char(instant at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
