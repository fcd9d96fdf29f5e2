-- Trainings that the service was asked for and whose answer was not heard or noted (yet): a job that nobody knows of.
CREATE TABLE asked_jobs (
    ticket   TEXT PRIMARY KEY,
    asked_at REAL NOT NULL
) WITHOUT ROWID;
