from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("store", "0002_fields")]
    operations = [
        migrations.RenameField("Product", "name", "title"),
        migrations.AlterField("Product", "title", models.CharField(max_length=200)),
    ]
