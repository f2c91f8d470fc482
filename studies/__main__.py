"""All studies, and then their page: `python -m studies`."""

from likelier.utils.files import write_whole
from studies.harness import main
from studies.page import PAGE, STUDIES, page

if __name__ == "__main__" and main(*STUDIES):
    write_whole(PAGE, page().encode())
