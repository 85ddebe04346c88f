from django.contrib.auth.hashers import PBKDF2PasswordHasher


class Quick(PBKDF2PasswordHasher):
    """PBKDF2 as ever, in a test's time."""

    algorithm = "quick"
    iterations = 10
