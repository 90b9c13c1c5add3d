-- What walpurge needs from a new database, and a table to try it on.
\set ON_ERROR_STOP on
\getenv password WALPURGE_PASSWORD

-- The newest minor versions load wal2json only if it is in this list, and older ones
-- refuse to start with the setting in postgresql.conf, so it is set only where it exists.
-- The list is not quoted: quoted, it would be one long name.
SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'output_plugin_libraries') AS has_list \gset
\if :has_list
    ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;
    SELECT pg_reload_conf();
\endif

CREATE ROLE walpurge LOGIN REPLICATION PASSWORD :'password';

CREATE TABLE products (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug        text NOT NULL UNIQUE,
    name        text NOT NULL,
    price       numeric(10, 2) NOT NULL,
    category_id bigint
);
-- So that an update carries the old slug too, whose key has to go as well.
ALTER TABLE products REPLICA IDENTITY FULL;

INSERT INTO products (slug, name, price, category_id) VALUES
    ('lantern', 'Lantern', 24.90, 1),
    ('broom', 'Broom', 12.50, 2),
    ('cauldron', 'Cauldron', 89.00, 2);
