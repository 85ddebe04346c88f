from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("store", "0006_not_null")]
    operations = [
        migrations.DeleteModel("Old"),
    ]
