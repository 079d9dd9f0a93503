"""Look up known vulnerabilities of the packages in constraints.txt; skip this without a network.

Options are passed to pip-audit. To accept a vulnerability that cannot matter here or has no fixed
version, add it to `ACCEPTED` with the reason.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
ACCEPTED: tuple[str, ...] = ()


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += [option for name in ACCEPTED for option in ("--ignore-vuln", name)]
    done = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True)
    # Its exit code is the same for a found vulnerability and for a missing network.
    unreachable = ("requests.exceptions.", "ConnectionError", "Timeout")
    if not done.stdout and not any(word in done.stderr for word in unreachable):
        sys.exit(done.stderr)
    packages = json.loads(done.stdout)["dependencies"] if done.stdout else []
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        print("pip-audit: skipped, the list of vulnerabilities cannot be reached")
        return
    print(f"pip-audit: {len(audited)} of {len(packages)} packages looked up")
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for package in audited
        for vulnerability in package["vulns"]
    ]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
