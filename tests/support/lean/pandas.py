"""Not pandas: on the path of the fleet's processes, so that pyarrow, which would import it, does without.

The runner does not depend on pandas; here it is installed for the readers, and half of a start is its import.
"""

raise ImportError("processes under test do without pandas, as in production")
