from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("store", "0005_fill")]
    operations = [
        migrations.AlterField("Product", "label", models.CharField(max_length=60)),
    ]
