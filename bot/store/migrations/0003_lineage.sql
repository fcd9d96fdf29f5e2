-- Which rows each fine-tune was given, and whose they were, so that a person's data can be traced to every model that
-- holds it without asking the service. A row may have several people: a vote's answer has its asker and its voters.
-- user_id NULL: nobody's, such as an import.
CREATE TABLE job_rows (
    job_id  TEXT NOT NULL,
    kind    TEXT NOT NULL CHECK (kind IN ('joke', 'answer')),
    row_id  INTEGER NOT NULL,
    user_id INTEGER
);
CREATE INDEX job_rows_by_user ON job_rows (user_id);
CREATE INDEX job_rows_by_job ON job_rows (job_id);

-- Fine-tunes whose model may not be used any more, because somebody whose data it holds took that back. deleted_at: when
-- the service had let go of it. told_at: when the moderators were told.
CREATE TABLE withdrawals (
    job_id       TEXT PRIMARY KEY REFERENCES jobs (job_id),
    withdrawn_at REAL NOT NULL,
    deleted_at   REAL,
    told_at      REAL
) WITHOUT ROWID;
