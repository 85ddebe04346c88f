from django.db import migrations


def fill(apps, editor):
    for product in apps.get_model("store", "Product").objects.all():
        product.label = f"label of {product.title}"
        product.save(update_fields=["label"])


class Migration(migrations.Migration):
    dependencies = [("store", "0004_longer")]
    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
