from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("store", "0003_rename")]
    operations = [
        migrations.AlterField("Product", "title", models.CharField(max_length=200)),
    ]
