-- Whose agreement to training covers which jokes. One row per agreement: withdrawing closes it for good, and with it
-- every joke added under it; agreeing again opens a new one. user_id NULL is the bot itself, for jokes it generated.
CREATE TABLE consents (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      INTEGER,
    version      INTEGER NOT NULL CHECK (version >= 1),
    given_at     REAL NOT NULL,
    withdrawn_at REAL
);
CREATE UNIQUE INDEX consents_standing ON consents (coalesce(user_id, 0), version) WHERE withdrawn_at IS NULL;

-- AUTOINCREMENT: the number of a removed joke never comes back as another joke.
CREATE TABLE jokes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    guild_id   INTEGER NOT NULL,
    author_id  INTEGER,
    text       TEXT NOT NULL,
    dedup_key  TEXT NOT NULL,
    provenance TEXT NOT NULL CHECK (provenance IN ('import', 'modal', 'slash', 'generated', 'message')),
    consent_id INTEGER REFERENCES consents (id),
    licence    TEXT NOT NULL DEFAULT '',
    is_global  INTEGER NOT NULL DEFAULT 0 CHECK (is_global IN (0, 1)),
    created_at REAL NOT NULL,
    CHECK (provenance = 'import' OR is_global = 0),
    CHECK (provenance <> 'import' OR licence <> '')
);
CREATE UNIQUE INDEX jokes_once_per_guild ON jokes (guild_id, dedup_key);
CREATE INDEX jokes_by_author ON jokes (author_id);
CREATE INDEX jokes_by_consent ON jokes (consent_id);

-- Discord's written permission to train on messages, as the operator recorded it, and from when. Whether it holds now
-- is the setting's word; this is the trail.
CREATE TABLE discord_permissions (
    reference   TEXT PRIMARY KEY,
    recorded_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE guild_settings (
    guild_id INTEGER NOT NULL,
    key      TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (guild_id, key)
) WITHOUT ROWID;

CREATE TABLE jobs (
    job_id      TEXT PRIMARY KEY,
    guild_id    INTEGER NOT NULL,
    channel_id  INTEGER NOT NULL,
    message_id  INTEGER,
    started_by  INTEGER,
    started_at  REAL NOT NULL,
    status      TEXT,
    model       TEXT,
    finished_at REAL
);
CREATE UNIQUE INDEX jobs_one_active ON jobs (guild_id) WHERE finished_at IS NULL;
CREATE INDEX jobs_by_guild ON jobs (guild_id, started_at);
