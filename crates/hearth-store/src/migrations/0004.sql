-- The ledger of thin devices: an id is written down before the kernel is told of it, and gone only
-- when the kernel has confirmed that it has forgotten it. 24 bits; 0 is never used.
CREATE TABLE thin_devices (
    id             INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 16777215),
    name           TEXT    NOT NULL,
    kind           TEXT    NOT NULL CHECK (kind IN ('image', 'vm-root', 'vm-data', 'snapshot', 'data')),
    origin         INTEGER CHECK (origin BETWEEN 1 AND 16777215),
    bytes          INTEGER NOT NULL CHECK (bytes >= 0),
    state          TEXT    NOT NULL CHECK (state IN ('creating', 'filling', 'ready', 'deleting', 'orphaned')),
    cause          TEXT,
    transaction_id INTEGER NOT NULL CHECK (transaction_id >= 0),
    created_at     TEXT    NOT NULL
) STRICT;

-- One on its way out has no name of its own any more.
CREATE UNIQUE INDEX thin_devices_name ON thin_devices (name)
WHERE state NOT IN ('deleting', 'orphaned');

-- Where an id was handed out last: it comes again as late as possible.
CREATE TABLE thin_cursor (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO thin_cursor (only, last) VALUES (1, 0);
