"""Lints the schema files and every statement in the code with sqruff."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.statements import all_statements


def main() -> int:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as directory:
        for statement in all_statements():
            text = statement.text.strip()
            if "when not matched" in text:  # sqruff does not know how to indent it
                text = re.sub(r"^ +", "", text, flags=re.MULTILINE)
            Path(directory, f"{statement.name}.sql").write_text(f"{text};\n", encoding="utf-8")
        sqruff = Path(sys.executable).parent / "sqruff"
        command = [str(sqruff), "--config", str(root / ".sqruff"), "lint", str(root / "sql"), directory]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - the arguments are ours


if __name__ == "__main__":
    sys.exit(main())
