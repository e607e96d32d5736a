"""What the errors of a statement mean: a row is at fault, or the database is unavailable. Any other is a bug."""

from typing import Final

import asyncpg

from service.database.pooler import SHARED_SESSION_ERRORS

# A statement failed because of one of its rows, and wrote nothing: invalid values (class 22), constraints (23),
# deadlocks (40), locks (55).
ROW_ERRORS: Final = (
    ValueError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)

# The database cannot serve a valid statement now, and has not applied it: a shutdown or a statement timeout (class 57),
# no memory, disk space or connection slot (53), an I/O error (58), a read-only server (25006), a shared session.
# After a timeout of ours it may have applied it.
UNAVAILABLE: Final = (
    *SHARED_SESSION_ERRORS,
    TimeoutError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
