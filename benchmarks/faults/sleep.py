"""Sleep that libfaketime leaves alone, as sitecustomize: it refuses clock_nanosleep(2) with EINVAL to Python 3.11."""

import select
import time


def _sleep(seconds):
    select.select([], [], [], seconds)


time.sleep = _sleep
