from tests.run.conftest import make_run as make_run
