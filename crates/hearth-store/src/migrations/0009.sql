-- Thin devices of one more kind: volumes, which were written down as those of VMs.
CREATE TABLE thin_devices_new (
    id             INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 16777215),
    name           TEXT    NOT NULL,
    kind           TEXT    NOT NULL CHECK (kind IN ('image', 'layer', 'vm-root', 'vm-data', 'volume', 'snapshot', 'data')),
    origin         INTEGER CHECK (origin BETWEEN 1 AND 16777215),
    bytes          INTEGER NOT NULL CHECK (bytes >= 0),
    state          TEXT    NOT NULL CHECK (state IN ('creating', 'filling', 'ready', 'deleting', 'orphaned')),
    cause          TEXT,
    transaction_id INTEGER NOT NULL CHECK (transaction_id >= 0),
    created_at     TEXT    NOT NULL
) STRICT;

INSERT INTO thin_devices_new (id, name, kind, origin, bytes, state, cause, transaction_id, created_at)
SELECT id, name, kind, origin, bytes, state, cause, transaction_id, created_at FROM thin_devices;

DROP TABLE thin_devices;
ALTER TABLE thin_devices_new RENAME TO thin_devices;

-- One on its way out has no name of its own any more.
CREATE UNIQUE INDEX thin_devices_name ON thin_devices (name)
WHERE state NOT IN ('deleting', 'orphaned');
