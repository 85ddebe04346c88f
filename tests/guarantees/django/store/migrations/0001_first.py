import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Product",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4, serialize=False)),
                ("name", models.CharField(max_length=50)),
            ],
        ),
        migrations.CreateModel(
            "Stock",
            [
                (
                    "id",
                    models.UUIDField(primary_key=True, default=uuid.uuid4, serialize=False),
                ),
                ("n", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            "Event",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4, serialize=False)),
                ("what", models.TextField()),
            ],
        ),
        migrations.CreateModel("Old", [("id", models.IntegerField(primary_key=True))]),
    ]
