#!/usr/bin/env python3
"""The ordinary manage.py of a Django project. APP_DB names the database."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
execute_from_command_line(sys.argv)
