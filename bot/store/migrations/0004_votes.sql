-- Jokes that the bot told in a guild, and what people thought of them: whoever asked for one brought its topic, as a
-- slash command's option or as a message, which decides whether it may train. asker_id NULL: somebody forgotten.
CREATE TABLE answers (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    guild_id   INTEGER NOT NULL,
    message_id INTEGER NOT NULL UNIQUE,
    asker_id   INTEGER,
    topic      TEXT NOT NULL,
    topic_from TEXT NOT NULL CHECK (topic_from IN ('nobody', 'slash', 'message')),
    prompt     TEXT NOT NULL,
    text       TEXT NOT NULL,
    model      TEXT NOT NULL,
    told_at    REAL NOT NULL,
    CHECK ((topic = '') = (topic_from = 'nobody'))
);
CREATE INDEX answers_by_guild ON answers (guild_id, id);
CREATE INDEX answers_by_asker ON answers (asker_id);
CREATE TABLE votes (
    answer_id INTEGER NOT NULL REFERENCES answers (id) ON DELETE CASCADE,
    user_id   INTEGER NOT NULL,
    value     INTEGER NOT NULL CHECK (value IN (-1, 1)),
    PRIMARY KEY (answer_id, user_id)
) WITHOUT ROWID;
CREATE INDEX votes_by_user ON votes (user_id);
