import uuid

from django.db import models


class Product(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    title = models.CharField(max_length=200)
    sku = models.CharField(max_length=20)
    label = models.CharField(max_length=60)


class Stock(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    n = models.IntegerField(default=0)


class Event(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    what = models.TextField()
