"""SQL for logins: credentials, and the failed attempts that limit further ones."""

from datetime import timedelta
from typing import Final

from service.database.database import Database, coalesced
from service.structs.auth import Credentials, FailureCount, LoginRules, LoginState, LoginSubjects

# A row for each subject. A limit of 0 is off, because no element of an array has that number.
SELECT_LOGIN: Final = """
select
    users.id,
    users.password_hash,
    known_addresses.user_id is not null as is_known_address,
    given.subject,
    given.most,
    (
        select count(failed.at)
        from unnest(login_failures.failed_at) as failed (at)
        where failed.at > now() - $5::interval
    ) as failures,
    ceil(extract(epoch from login_failures.failed_at[given.most] + $5::interval - now()))::bigint as wait
from unnest($3::bytea[], $4::integer[]) with ordinality as given (subject, most, number)
left join login_failures on given.subject = login_failures.subject
left join users on users.username = $1
left join known_addresses
    on
        users.id = known_addresses.user_id
        and known_addresses.address = $2
        and known_addresses.last_login_at > now() - $6::interval
order by given.number
"""


@coalesced
async def select_login(
    db: Database, username: str, address: str, subjects: LoginSubjects, rules: LoginRules
) -> LoginState:
    """Read what decides whether a password may be verified, and what it is verified against."""
    limits = (rules.per_account, rules.per_address, rules.per_account)
    rows = await db.fetch(SELECT_LOGIN, username, address, subjects, limits, rules.window, rules.address_known_for)
    user_id, password_hash, is_known_address, *_ = rows[0]
    of_account, of_address, of_account_at_address = (
        FailureCount(subject, most, failures, max(0, wait or 0)) for _, _, _, subject, most, failures, wait in rows
    )
    counts = (of_account_at_address if is_known_address else of_account, of_address)
    return LoginState(
        Credentials(user_id, password_hash) if user_id else None,
        tuple(count for count in counts if count.limit),
    )


# The order of the subjects prevents deadlocks.
INSERT_FAILURES: Final = """
insert into login_failures (subject, failed_at, last_failed_at)
select
    subject,
    array[now()] as failed_at,
    now() as last_failed_at
from unnest($1::bytea[]) as given (subject)
order by subject
on conflict (subject) do update set
    failed_at = (array_prepend(now(), login_failures.failed_at))[:$2],
    last_failed_at = now()
"""


async def insert_failure(db: Database, counts: tuple[FailureCount, ...]) -> None:
    """Count a failed login for each of these subjects."""
    if counts:
        longest = max(count.limit for count in counts)
        await db.write_row(INSERT_FAILURES, [count.subject for count in counts], longest)


# The statement counts a registration, or returns nothing if the limit is reached.
INSERT_REGISTRATION: Final = """
insert into login_failures (subject, failed_at, last_failed_at)
values ($1, array[now()], now())
on conflict (subject) do update
    set
        failed_at = (array_prepend(now(), login_failures.failed_at))[:$2],
        last_failed_at = now()
    where coalesce(login_failures.failed_at[$2], '-infinity') <= now() - $3::interval
returning subject
"""


async def insert_registration(db: Database, subject: bytes, limit: int, window: timedelta) -> bool:
    """Count a registration. Returns ``False``, and counts nothing, if there were ``limit`` within ``window``."""
    return await db.write_row(INSERT_REGISTRATION, subject, limit, window) is not None


SELECT_WAIT: Final = """
select ceil(extract(epoch from failed_at[$2] + $3::interval - now()))::bigint as wait
from login_failures
where subject = $1
"""


async def select_wait(db: Database, subject: bytes, limit: int, window: timedelta) -> int:
    """The seconds until the limit is no longer reached; at least 1."""
    row = await db.fetch_row(SELECT_WAIT, subject, limit, window)
    return max(1, (row and row["wait"]) or 1)


# It replaces only the hash that was verified, so a password that was changed meanwhile is not restored.
UPDATE_HASH: Final = """
update users
set password_hash = $3
where
    id = $1
    and password_hash = $2
returning id
"""


async def update_hash(db: Database, old: Credentials, new: Credentials) -> bool:
    """Replace a hash by a new one of the same password. Returns ``False`` if the old one is no longer stored."""
    return await db.write_row(UPDATE_HASH, old.id, old.password_hash, new.password_hash) is not None
