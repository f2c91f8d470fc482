"""What is wrong with a preference file, before anything is trained on it.

`audit_records` looks at records and gives an `Audit`: findings with stable names, statistics and a verdict. `checks`
holds the table of checks, `catalogue` what each finding means, `clean` mends a file; `insight.audit` shows an audit.
"""

from likelier.data.audit.checks import CHECKS, audit_records
from likelier.data.audit.findings import Audit, Finding

__all__ = ["CHECKS", "Audit", "Finding", "audit_records"]
