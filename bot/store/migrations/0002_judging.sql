-- What a fine-tune was for and how it came out, so that its history can be told without the service, and what a
-- moderator decided about it. started_from: the model that told the guild's jokes when it began.
ALTER TABLE jobs ADD COLUMN started_from TEXT;
ALTER TABLE jobs ADD COLUMN num_jokes INTEGER;
ALTER TABLE jobs ADD COLUMN loss_before REAL;
ALTER TABLE jobs ADD COLUMN loss_after REAL;
ALTER TABLE jobs ADD COLUMN passed INTEGER CHECK (passed IN (0, 1));
ALTER TABLE jobs ADD COLUMN decision TEXT CHECK (decision IN ('promoted', 'kept', 'undone'));
ALTER TABLE jobs ADD COLUMN decided_by INTEGER;
ALTER TABLE jobs ADD COLUMN decided_at REAL;
UPDATE jobs SET passed = model IS NOT NULL WHERE status = 'succeeded';
CREATE INDEX jobs_by_message ON jobs (message_id);

-- The models that told a guild's jokes before the live one (guild_settings, joke_model), the last one on top: a
-- rollback takes it off. model NULL is the default of the settings.
CREATE TABLE past_joke_models (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    guild_id INTEGER NOT NULL,
    model    TEXT,
    left_at  REAL NOT NULL
);
CREATE INDEX past_joke_models_by_guild ON past_joke_models (guild_id, id);
INSERT INTO past_joke_models (guild_id, model, left_at)
    SELECT guild_id, value, CAST(strftime('%s', 'now') AS REAL) FROM guild_settings WHERE key = 'previous_joke_model';
DELETE FROM guild_settings WHERE key = 'previous_joke_model';

-- Two models answered one prompt, and people chose without knowing who is who. Who voted how is kept only until the
-- duel ends; then the counts stay.
CREATE TABLE duels (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    guild_id     INTEGER NOT NULL,
    channel_id   INTEGER NOT NULL,
    message_id   INTEGER NOT NULL,
    topic        TEXT NOT NULL,
    model_a      TEXT NOT NULL,
    model_b      TEXT NOT NULL,
    text_a       TEXT NOT NULL,
    text_b       TEXT NOT NULL,
    votes_wanted INTEGER NOT NULL CHECK (votes_wanted >= 1),
    started_at   REAL NOT NULL,
    ends_at      REAL NOT NULL,
    closed_at    REAL,
    revealed_at  REAL,
    votes_a      INTEGER,
    votes_b      INTEGER
);
CREATE UNIQUE INDEX duels_one_open ON duels (channel_id) WHERE closed_at IS NULL;
CREATE INDEX duels_by_message ON duels (message_id);
CREATE INDEX duels_by_guild ON duels (guild_id, id);
CREATE TABLE duel_votes (
    duel_id INTEGER NOT NULL REFERENCES duels (id),
    user_id INTEGER NOT NULL,
    choice  TEXT NOT NULL CHECK (choice IN ('A', 'B')),
    PRIMARY KEY (duel_id, user_id)
) WITHOUT ROWID;
CREATE INDEX duel_votes_by_user ON duel_votes (user_id);
