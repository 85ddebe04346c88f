"""Django's own applications, with ids of this node, also for the tables of many-to-many fields."""

from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.apps import AuthConfig


class Auth(AuthConfig):
    default_auto_field = "shop.ids.NodeAutoField"


class Admin(AdminConfig):
    default_auto_field = "shop.ids.NodeAutoField"
