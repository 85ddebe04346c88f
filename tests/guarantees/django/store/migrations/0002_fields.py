from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("store", "0001_first")]
    operations = [
        # Without a default that stays in the database, and with one that is NULL.
        migrations.AddField(
            "Product",
            "sku",
            models.CharField(max_length=20, default="none"),
            preserve_default=False,
        ),
        migrations.AddField("Product", "label", models.CharField(max_length=60, null=True)),
    ]
