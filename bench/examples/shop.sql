CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, orders INTEGER NOT NULL);
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, stock INTEGER NOT NULL);
CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customer (id),
    product INTEGER NOT NULL REFERENCES product (id),
    amount INTEGER NOT NULL,
    note TEXT,
    created INTEGER NOT NULL
);
CREATE INDEX orders_customer ON orders (customer);
