import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Product",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
                ("name", models.CharField(max_length=50)),
                ("stock", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            "Event",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
                ("what", models.TextField()),
            ],
        ),
        migrations.CreateModel("Old", [("id", models.IntegerField(primary_key=True))]),
    ]
