-- A store of schema 1 with jobs in every state, written by the gpuq of commit 3e5dbbb (2026-11-21), as `.dump` tells it.
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE attempts (
    job_id            INTEGER NOT NULL REFERENCES jobs (id),
    number            INTEGER NOT NULL,          -- from 1
    signature         TEXT NOT NULL,             -- what decides memory: scheduler.estimate.signature
    reservation_bytes INTEGER NOT NULL,
    started_at        TEXT NOT NULL,
    ended_at          TEXT,
    outcome           TEXT,                      -- set exactly when ended
    reason            TEXT,
    pid               INTEGER,                   -- the worker's
    exit_code         INTEGER,
    peak_bytes        INTEGER,
    start_step        INTEGER,                   -- optimizer steps done when it began to train
    PRIMARY KEY (job_id, number),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
INSERT INTO "attempts" VALUES(1,1,'5f1d0000000000000000000000000001',482344960,'2026-11-20T20:00:21Z','2026-11-20T20:00:23Z','succeeded',NULL,4001,0,414187520,0);
INSERT INTO "attempts" VALUES(2,1,'5f1d0000000000000000000000000002',482344960,'2026-11-20T20:00:27Z','2026-11-20T20:00:29Z','failed','ValueError: no such layer; tried again from its checkpoint',4002,1,414187520,0);
INSERT INTO "attempts" VALUES(2,2,'5f1d0000000000000000000000000002',482344960,'2026-11-20T20:00:32Z','2026-11-20T20:00:34Z','failed','ValueError: no such layer (2 times at the same place)',4002,1,414187520,0);
INSERT INTO "attempts" VALUES(3,1,'5f1d0000000000000000000000000003',482344960,'2026-11-20T20:00:38Z','2026-11-20T20:00:39Z','out_of_memory','needed more than the 460 MiB reserved, 3 times in a row',4003,3,492830720,NULL);
INSERT INTO "attempts" VALUES(5,1,'5f1d0000000000000000000000000005',482344960,'2026-11-20T20:00:45Z','2026-11-20T20:00:47Z','stopped','stopped; goes on from its checkpoint',4005,75,414187520,0);
INSERT INTO "attempts" VALUES(6,1,'5f1d0000000000000000000000000006',438304768,'2026-11-20T20:00:50Z',NULL,NULL,NULL,4006,NULL,408944640,0);
INSERT INTO "attempts" VALUES(7,1,'5f1d0000000000000000000000000007',482344960,'2026-11-20T20:00:54Z',NULL,NULL,NULL,4007,NULL,NULL,NULL);
INSERT INTO "attempts" VALUES(9,1,'5f1d0000000000000000000000000009',482344960,'2026-11-20T20:00:56Z','2026-11-20T20:00:57Z','lost','its worker was killed (SIGKILL) 10 times without progress',4009,-9,NULL,NULL);
INSERT INTO "attempts" VALUES(10,1,'5f1d00000000000000000000000000010',482344960,'2026-11-20T20:01:02Z','2026-11-20T20:01:03Z','timed_out','ran for 6 h',4010,75,414187520,NULL);
CREATE TABLE dispatcher (                        -- one row while one runs
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    pid         INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    started_at  TEXT NOT NULL
);
INSERT INTO "dispatcher" VALUES(1,4999999,12345,'00000000-0000-0000-0000-000000000000','2026-11-20T20:01:06Z');
CREATE TABLE events (
    id      INTEGER PRIMARY KEY,
    at      TEXT NOT NULL,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    kind    TEXT NOT NULL,                       -- submitted, placed, running, ended, requeued, cancelled, retried
    detail  TEXT
);
INSERT INTO "events" VALUES(1,'2026-11-20T20:00:01Z',1,'submitted',NULL);
INSERT INTO "events" VALUES(2,'2026-11-20T20:00:03Z',2,'submitted',NULL);
INSERT INTO "events" VALUES(3,'2026-11-20T20:00:05Z',3,'submitted',NULL);
INSERT INTO "events" VALUES(4,'2026-11-20T20:00:07Z',4,'submitted',NULL);
INSERT INTO "events" VALUES(5,'2026-11-20T20:00:09Z',5,'submitted',NULL);
INSERT INTO "events" VALUES(6,'2026-11-20T20:00:11Z',6,'submitted',NULL);
INSERT INTO "events" VALUES(7,'2026-11-20T20:00:13Z',7,'submitted',NULL);
INSERT INTO "events" VALUES(8,'2026-11-20T20:00:15Z',8,'submitted',NULL);
INSERT INTO "events" VALUES(9,'2026-11-20T20:00:17Z',9,'submitted',NULL);
INSERT INTO "events" VALUES(10,'2026-11-20T20:00:19Z',10,'submitted',NULL);
INSERT INTO "events" VALUES(11,'2026-11-20T20:00:20Z',1,'placed','482344960');
INSERT INTO "events" VALUES(12,'2026-11-20T20:00:22Z',1,'running',NULL);
INSERT INTO "events" VALUES(13,'2026-11-20T20:00:25Z',1,'finished','succeeded');
INSERT INTO "events" VALUES(14,'2026-11-20T20:00:26Z',2,'placed','482344960');
INSERT INTO "events" VALUES(15,'2026-11-20T20:00:28Z',2,'running',NULL);
INSERT INTO "events" VALUES(16,'2026-11-20T20:00:30Z',2,'requeued','ValueError: no such layer; tried again from its checkpoint');
INSERT INTO "events" VALUES(17,'2026-11-20T20:00:31Z',2,'placed','482344960');
INSERT INTO "events" VALUES(18,'2026-11-20T20:00:33Z',2,'running',NULL);
INSERT INTO "events" VALUES(19,'2026-11-20T20:00:36Z',2,'finished','failed: ValueError: no such layer (2 times at the same place)');
INSERT INTO "events" VALUES(20,'2026-11-20T20:00:37Z',3,'placed','482344960');
INSERT INTO "events" VALUES(21,'2026-11-20T20:00:41Z',3,'finished','out_of_memory: needed more than the 460 MiB reserved, 3 times in a row');
INSERT INTO "events" VALUES(22,'2026-11-20T20:00:43Z',4,'finished','cancelled: cancelled before it started');
INSERT INTO "events" VALUES(23,'2026-11-20T20:00:44Z',5,'placed','482344960');
INSERT INTO "events" VALUES(24,'2026-11-20T20:00:46Z',5,'running',NULL);
INSERT INTO "events" VALUES(25,'2026-11-20T20:00:48Z',5,'requeued','stopped; goes on from its checkpoint');
INSERT INTO "events" VALUES(26,'2026-11-20T20:00:49Z',6,'placed','438304768');
INSERT INTO "events" VALUES(27,'2026-11-20T20:00:51Z',6,'running',NULL);
INSERT INTO "events" VALUES(28,'2026-11-20T20:00:52Z',6,'cancel wished',NULL);
INSERT INTO "events" VALUES(29,'2026-11-20T20:00:53Z',7,'placed','482344960');
INSERT INTO "events" VALUES(30,'2026-11-20T20:00:55Z',9,'placed','482344960');
INSERT INTO "events" VALUES(31,'2026-11-20T20:00:59Z',9,'finished','lost: its worker was killed (SIGKILL) 10 times without progress');
INSERT INTO "events" VALUES(32,'2026-11-20T20:01:00Z',9,'retried',NULL);
INSERT INTO "events" VALUES(33,'2026-11-20T20:01:01Z',10,'placed','482344960');
INSERT INTO "events" VALUES(34,'2026-11-20T20:01:05Z',10,'finished','timed_out: ran for 6 h');
CREATE TABLE jobs (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    name                     TEXT NOT NULL,
    spec                     TEXT NOT NULL,      -- jobs.spec.JobSpec as JSON, never changed
    priority                 INTEGER NOT NULL,
    state                    TEXT NOT NULL,
    outcome                  TEXT,               -- set exactly when finished
    reason                   TEXT,               -- why it waits, or why it ended so
    wish                     TEXT,
    submitted_at             TEXT NOT NULL,
    submitted_from           TEXT NOT NULL,      -- directory
    git_commit               TEXT,
    git_dirty                INTEGER,
    finished_at              TEXT,
    forgiven_attempts        INTEGER NOT NULL DEFAULT 0,  -- those up to here, from 1, no longer count: retried since
    estimate                 TEXT,               -- scheduler.estimate.Estimate as JSON
    reservation_bytes        INTEGER,            -- of the live or last attempt
    parameters               INTEGER,
    epoch                    INTEGER NOT NULL DEFAULT 0,
    best_validation_accuracy REAL,
    test_accuracy            REAL,
    elapsed_s                REAL NOT NULL DEFAULT 0,  -- training time over all attempts
    eta_s                    REAL,
    CHECK ((state = 'finished') = (outcome IS NOT NULL))
);
INSERT INTO "jobs" VALUES(1,'succeeded','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"succeeded","optimizer":{"betas":[0.9,0.999],"lr":0.001,"name":"adam","weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"final_lr":0.0,"name":"cosine","warmup_epochs":1},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'finished','succeeded',NULL,NULL,'2026-11-20T20:00:00Z','/home/me/study','c0ffee',1,'2026-11-20T20:00:24Z',0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,10,0.85,0.83,100.0,NULL);
INSERT INTO "jobs" VALUES(2,'failed','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"failed","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.1,"milestones":[3,6],"name":"steps","warmup_epochs":0},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'finished','failed','ValueError: no such layer (2 times at the same place)',NULL,'2026-11-20T20:00:02Z','/home/me/study','c0ffee',1,'2026-11-20T20:00:35Z',0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(3,'out-of-memory','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"out-of-memory","optimizer":{"betas":[0.9,0.999],"lr":0.001,"name":"adamw","weight_decay":0.01},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":4096,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'finished','out_of_memory','needed more than the 460 MiB reserved, 3 times in a row',NULL,'2026-11-20T20:00:04Z','/home/me/study','c0ffee',1,'2026-11-20T20:00:40Z',0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(4,'cancelled','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"cancelled","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":"100 MiB","threads":1},"schedule":{"name":"constant","warmup_epochs":0},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'finished','cancelled','cancelled before it started',NULL,'2026-11-20T20:00:06Z','/home/me/study','c0ffee',1,'2026-11-20T20:00:42Z',0,X'7B226279746573223A3130343835373630302C226261736973223A226465636C61726564222C226D617267696E223A302E302C22636F6D706F6E656E7473223A7B7D2C22706172616D6574657273223A6E756C6C7D',NULL,NULL,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(5,'stopped','{"data":{"augment":"hard2","chunk_size":null,"image_size":null,"limit":null,"name":"cifar10","root":"~/datasets","split":"official"},"model":{"name":"resv1","options":{}},"name":"stopped","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'queued',NULL,'stopped; goes on from its checkpoint',NULL,'2026-11-20T20:00:08Z','/home/me/study','c0ffee',1,NULL,0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,2,0.45,NULL,20.0,NULL);
INSERT INTO "jobs" VALUES(6,'running','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"running","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'running',NULL,NULL,'cancel','2026-11-20T20:00:10Z','/home/me/study','c0ffee',1,NULL,0,X'7B226279746573223A3339383435383838302C226261736973223A226D65617375726564222C226D617267696E223A302E312C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',438304768,11000,3,0.45,NULL,30.0,70.0);
INSERT INTO "jobs" VALUES(7,'starting','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"starting","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":3,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',3,'starting',NULL,NULL,NULL,'2026-11-20T20:00:12Z','/home/me/study','c0ffee',1,NULL,0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(8,'queued','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"networks.py:build","options":{"width":8}},"name":"queued","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'queued',NULL,'waiting for its estimate',NULL,'2026-11-20T20:00:14Z','/home/me/study','c0ffee',1,NULL,0,NULL,NULL,NULL,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(9,'lost','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"lost","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'queued',NULL,NULL,NULL,'2026-11-20T20:00:16Z','/home/me/study','c0ffee',1,NULL,1,NULL,482344960,11000,0,NULL,NULL,0.0,NULL);
INSERT INTO "jobs" VALUES(10,'timed-out','{"data":{"augment":"easy","chunk_size":null,"image_size":null,"limit":null,"name":"shapes","root":"~/datasets","split":[0.8,0.1,0.1]},"model":{"name":"resv1","options":{}},"name":"timed-out","optimizer":{"lr":0.05,"momentum":0.9,"name":"sgd","nesterov":true,"weight_decay":0.0},"priority":0,"resources":{"memory":null,"threads":1},"schedule":{"factor":0.5,"min_lr":1e-7,"name":"plateau","patience":4,"warmup_epochs":5},"train":{"batch_size":256,"checkpoint_every":"1m","epochs":10,"precision":"auto","seed":42}}',0,'finished','timed_out','ran for 6 h',NULL,'2026-11-20T20:00:18Z','/home/me/study','c0ffee',1,'2026-11-20T20:01:04Z',0,X'7B226279746573223A3431393433303430302C226261736973223A226D6F64656C6C6564222C226D617267696E223A302E31352C22636F6D706F6E656E7473223A7B2270726F63657373223A3331343537323830302C2264617461223A34313934333034302C2261637469766174696F6E73223A36323931343536307D2C22706172616D6574657273223A31313030307D',482344960,11000,0,NULL,NULL,0.0,NULL);
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
    PRIMARY KEY (job_id, epoch)
);
INSERT INTO "metrics" VALUES(1,1,100,0.05,2.0,0.45,2.1,0.4,1000.0,10.0,408944640);
INSERT INTO "metrics" VALUES(1,2,200,0.05,1.0,0.5,1.05,0.45,1000.0,20.0,408944640);
INSERT INTO "metrics" VALUES(1,3,300,0.05,6.66666666666666629659e-01,0.55,7.00000000000000066613e-01,0.5,1000.0,30.0,408944640);
INSERT INTO "metrics" VALUES(1,4,400,0.05,0.5,6.00000000000000088817e-01,0.525,0.55,1000.0,40.0,408944640);
INSERT INTO "metrics" VALUES(1,5,500,0.05,0.4,0.65,4.20000000000000039968e-01,0.6,1000.0,50.0,408944640);
INSERT INTO "metrics" VALUES(1,6,600,0.05,3.33333333333333314829e-01,7.00000000000000066613e-01,3.50000000000000033306e-01,0.65,1000.0,60.0,408944640);
INSERT INTO "metrics" VALUES(1,7,700,0.05,2.85714285714285698425e-01,0.75,0.3,0.7,1000.0,70.0,408944640);
INSERT INTO "metrics" VALUES(1,8,800,0.05,0.25,0.8,0.2625,0.75,1000.0,80.0,408944640);
INSERT INTO "metrics" VALUES(1,9,900,0.05,2.22222222222222209886e-01,8.50000000000000088817e-01,2.33333333333333337034e-01,0.8,1000.0,90.0,408944640);
INSERT INTO "metrics" VALUES(1,10,1000,0.05,0.2,0.9,2.10000000000000019984e-01,0.85,1000.0,100.0,408944640);
INSERT INTO "metrics" VALUES(5,1,100,0.05,2.0,0.45,2.1,0.4,1000.0,10.0,408944640);
INSERT INTO "metrics" VALUES(5,2,200,0.05,1.0,0.5,1.05,0.45,1000.0,20.0,408944640);
INSERT INTO "metrics" VALUES(6,1,100,0.05,2.0,0.45,2.1,0.4,1000.0,10.0,408944640);
INSERT INTO "metrics" VALUES(6,2,200,0.05,1.0,0.5,1.05,0.45,1000.0,20.0,408944640);
INSERT INTO "metrics" VALUES(6,3,300,0.05,6.66666666666666629659e-01,0.49,7.00000000000000066613e-01,0.44,1000.0,30.0,408944640);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE UNIQUE INDEX one_live_attempt ON attempts (job_id) WHERE ended_at IS NULL;
CREATE INDEX attempts_by_signature ON attempts (signature);
CREATE INDEX events_by_job ON events (job_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('jobs',10);
COMMIT;
