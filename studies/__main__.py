"""All studies but those that take hours, and then their page: `python -m studies`."""

from likelier.utils.files import write_whole
from studies.harness import main
from studies.page import PAGE, SLOW, STUDIES, page

if __name__ == "__main__" and main(*(study for study in STUDIES if study.name not in SLOW)):
    write_whole(PAGE, page().encode())
