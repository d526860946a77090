-- One row: who this installation is, and where each kind of lease was handed out last.
CREATE TABLE meta (
    only         INTEGER PRIMARY KEY CHECK (only = 1),
    installation TEXT    NOT NULL,
    last_ip      INTEGER NOT NULL DEFAULT 0,
    last_cid     INTEGER NOT NULL DEFAULT 0,
    last_uid     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE vms (
    id           TEXT    PRIMARY KEY NOT NULL,
    name         TEXT    NOT NULL UNIQUE,
    spec         TEXT    NOT NULL CHECK (json_valid(spec)),
    generation   INTEGER NOT NULL CHECK (generation >= 1),
    goal         TEXT    NOT NULL CHECK (goal IN ('running', 'paused', 'stopped', 'absent')),
    force_stop   INTEGER NOT NULL CHECK (force_stop IN (0, 1)),
    stop_timeout INTEGER CHECK (stop_timeout >= 0), -- milliseconds
    status       TEXT    NOT NULL CHECK (json_valid(status)),
    created_at   TEXT    NOT NULL,
    image        TEXT    NOT NULL,
    kernel       TEXT
) STRICT, WITHOUT ROWID;

-- What only one VM may have. Addresses are whole numbers in host order.
CREATE TABLE leases (
    vm  TEXT    PRIMARY KEY NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    ip  INTEGER UNIQUE CHECK (ip BETWEEN 1 AND 4294967294),
    mac TEXT    UNIQUE,
    cid INTEGER NOT NULL UNIQUE CHECK (cid BETWEEN 3 AND 4294967294),
    uid INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 4294967294),
    tap TEXT    UNIQUE,
    CHECK ((ip IS NULL) = (mac IS NULL) AND (ip IS NULL) = (tap IS NULL))
) STRICT, WITHOUT ROWID;

-- 0 stands for the daemon's own user, which is no lease.
CREATE UNIQUE INDEX leases_uid ON leases (uid) WHERE uid <> 0;

CREATE TABLE ports (
    vm         TEXT    NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    protocol   TEXT    NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    host_ip    INTEGER NOT NULL CHECK (host_ip BETWEEN 0 AND 4294967295),
    host_port  INTEGER NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
    guest_port INTEGER NOT NULL CHECK (guest_port BETWEEN 1 AND 65535),
    PRIMARY KEY (protocol, host_port, host_ip)
) STRICT, WITHOUT ROWID;

CREATE INDEX ports_vm ON ports (vm);

-- 0.0.0.0 is every address of the host, so it overlaps each of them.
CREATE TRIGGER ports_overlap BEFORE INSERT ON ports
WHEN EXISTS (
    SELECT 1 FROM ports
    WHERE protocol = NEW.protocol AND host_port = NEW.host_port
      AND (host_ip = 0 OR NEW.host_ip = 0 OR host_ip = NEW.host_ip)
)
BEGIN
    SELECT RAISE(ABORT, 'the port is published already');
END;

CREATE TRIGGER ports_fixed BEFORE UPDATE ON ports
BEGIN
    SELECT RAISE(ABORT, 'a published port is replaced, never changed');
END;

CREATE TABLE volumes (
    vm   TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (vm, name)
) STRICT, WITHOUT ROWID;

-- The journal. It outlives the VM it speaks of, hence no foreign key.
CREATE TABLE intents (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    vm          TEXT,
    step        TEXT NOT NULL CHECK (json_valid(step)),
    begun_at    TEXT NOT NULL,
    finished_at TEXT,
    outcome     TEXT,
    CHECK ((finished_at IS NULL) = (outcome IS NULL))
) STRICT;

CREATE INDEX intents_open ON intents (n) WHERE finished_at IS NULL;

CREATE TABLE events (
    seq      INTEGER PRIMARY KEY CHECK (seq >= 1),
    at       TEXT NOT NULL,
    severity TEXT NOT NULL,
    code     TEXT NOT NULL,
    vm       TEXT,
    name     TEXT,
    message  TEXT NOT NULL,
    details  TEXT NOT NULL CHECK (json_valid(details))
) STRICT;

CREATE TABLE idempotency (
    key        TEXT    PRIMARY KEY NOT NULL,
    hash       TEXT    NOT NULL,
    vm         TEXT,
    response   TEXT    NOT NULL CHECK (json_valid(response)),
    created_at INTEGER NOT NULL -- seconds since 1970
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_age ON idempotency (created_at);
