-- The store's tables. Times are UTC, ISO 8601; sizes are bytes; unknown is null.

CREATE TABLE jobs (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    name                     TEXT NOT NULL,
    spec                     TEXT NOT NULL,      -- jobs.spec.JobSpec as JSON, never changed
    priority                 INTEGER NOT NULL,
    state                    TEXT NOT NULL,
    outcome                  TEXT,               -- set exactly when finished
    reason                   TEXT,               -- why it waits, or why it ended so
    wish                     TEXT,               -- cancel (of a live job), pause (of a live or queued one)
    submitted_at             TEXT NOT NULL,
    submitted_from           TEXT NOT NULL,      -- directory
    git_commit               TEXT,
    git_dirty                INTEGER,
    finished_at              TEXT,
    forgiven_attempts        INTEGER NOT NULL DEFAULT 0,  -- those up to here, from 1, no longer count: retried since
    estimate                 TEXT,               -- scheduler.estimate.Estimate as JSON
    reservation_bytes        INTEGER,            -- that the live or last attempt was placed with
    parameters               INTEGER,
    epoch                    INTEGER NOT NULL DEFAULT 0,  -- of the last line of metrics
    step                     INTEGER NOT NULL DEFAULT 0,  -- likewise
    steps                    INTEGER,            -- of the whole training, once it has begun
    best_validation_accuracy REAL,
    test_accuracy            REAL,
    elapsed_s                REAL NOT NULL DEFAULT 0,  -- training time over all attempts
    eta_s                    REAL,
    CHECK ((state = 'finished') = (outcome IS NOT NULL))
);
CREATE INDEX jobs_by_state ON jobs (state);

CREATE TABLE queue_pause (                       -- one row while the whole queue is paused
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    paused_at     TEXT NOT NULL,
    reason        TEXT,                          -- null if a person wanted it
    running_go_on INTEGER NOT NULL               -- else they checkpoint and are queued again
);

-- Queued jobs that may be placed: a wish on a queued job is that it be paused.
CREATE VIEW startable AS
    SELECT * FROM jobs WHERE state = 'queued' AND wish IS NULL AND NOT EXISTS (SELECT 1 FROM queue_pause);

CREATE TABLE attempts (
    job_id            INTEGER NOT NULL REFERENCES jobs (id),
    number            INTEGER NOT NULL,          -- from 1
    signature         TEXT NOT NULL,             -- what decides memory: scheduler.estimate.signature
    device_kind       TEXT NOT NULL,
    device_name       TEXT NOT NULL,
    predicted_bytes   INTEGER NOT NULL,          -- without the margin
    basis             TEXT NOT NULL,             -- of the prediction
    reservation_bytes INTEGER NOT NULL,          -- less than it was placed with once it has given back the rest
    started_at        TEXT NOT NULL,
    ended_at          TEXT,
    outcome           TEXT,                      -- set exactly when ended
    reason            TEXT,
    pid               INTEGER,                   -- the worker's
    exit_code         INTEGER,
    peak_bytes        INTEGER,                   -- of one that ran out of memory: what it needed at least
    shows_peak        INTEGER NOT NULL DEFAULT 0,  -- whether jobs like it peak there, too
    start_step        INTEGER,                   -- optimizer steps done when it began to train
    PRIMARY KEY (job_id, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
CREATE UNIQUE INDEX one_live_attempt ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX attempts_by_device ON attempts (device_kind, device_name);

-- What attempts tell of the memory that jobs need: exactly, or at least so much.
CREATE VIEW measurements AS
    SELECT *, outcome = 'out_of_memory' AS at_least
    FROM attempts
    WHERE peak_bytes IS NOT NULL AND (shows_peak OR outcome = 'out_of_memory');

CREATE VIEW needs AS
    SELECT device_kind, device_name, signature,
           max(peak_bytes) FILTER (WHERE NOT at_least) AS peak_bytes,
           max(peak_bytes) FILTER (WHERE at_least) AS exceeded_bytes
    FROM measurements
    GROUP BY device_kind, device_name, signature;

-- Measured over predicted bytes: one of each signature that was modelled, one of each job that was predicted otherwise,
-- the largest. So jobs that are alike count once, and what is known at least gives way to what was needed in the end.
CREATE VIEW ratios AS
    SELECT device_kind, device_name, basis, max(1.0 * peak_bytes / predicted_bytes) AS ratio, max(ended_at) AS ended_at
    FROM measurements
    WHERE predicted_bytes > 0                    -- a probe has no prediction
    GROUP BY device_kind, device_name, basis, CASE basis WHEN 'modelled' THEN signature ELSE job_id END;

CREATE TABLE metrics (
    job_id              INTEGER NOT NULL REFERENCES jobs (id),
    epoch               INTEGER NOT NULL,
    step                INTEGER NOT NULL,
    lr                  REAL NOT NULL,
    train_loss          REAL NOT NULL,
    train_accuracy      REAL NOT NULL,
    validation_loss     REAL NOT NULL,
    validation_accuracy REAL NOT NULL,
    images_per_s        REAL NOT NULL,
    elapsed_s           REAL NOT NULL,
    peak_bytes          INTEGER NOT NULL,
    PRIMARY KEY (job_id, step)
);

CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: the breaker counts from one on
    at      TEXT NOT NULL,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    kind    TEXT NOT NULL,                       -- submitted, placed, running, gave back, requeued, finished, retried, …
    detail  TEXT
);
CREATE INDEX events_by_job ON events (job_id);

CREATE TABLE dispatcher (                        -- one row while one runs
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    pid         INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    started_at  TEXT NOT NULL
);
