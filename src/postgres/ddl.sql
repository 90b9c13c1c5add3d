-- DDL that changes rows logs none of them. These event triggers name its tables in a message that
-- is part of its transaction, and walpurge runs the fallbacks of the rules on them. Whoever runs
-- the DDL needs no right here. Should the message fail, so does the DDL; to do without:
--   ALTER EVENT TRIGGER walpurge_sql_drop DISABLE;  and the same for the other two
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS walpurge;

CREATE OR REPLACE FUNCTION walpurge.ddl() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $walpurge$
DECLARE
    changed oid[] := '{}';
    altered jsonb;
    dropped jsonb;
BEGIN
    IF tg_event = 'sql_drop' THEN
        -- The catalog does not have them any more; walpurge remembers what they were part of.
        SELECT jsonb_agg(jsonb_build_array(d.schema_name, d.object_name)) INTO dropped
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type = 'table' AND NOT d.is_temporary;
        -- Columns go by DROP TYPE with CASCADE too.
        SELECT coalesce(array_agg(DISTINCT d.objid), '{}') INTO changed
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type = 'table column' AND NOT d.is_temporary;
    ELSIF tg_event = 'table_rewrite' THEN
        changed := ARRAY[pg_event_trigger_table_rewrite_oid()];
    ELSE
        -- A renamed schema gives all of its tables other names.
        SELECT coalesce(array_agg(DISTINCT c.oid), '{}') INTO changed
        FROM pg_event_trigger_ddl_commands() d
        JOIN pg_class c ON
            d.classid = 'pg_class'::regclass AND c.oid = d.objid
                AND d.object_type IN ('table', 'table column')
            OR d.classid = 'pg_namespace'::regclass AND c.relnamespace = d.objid
        WHERE d.command_tag IN ('ALTER TABLE', 'ALTER SCHEMA');
    END IF;
    -- With what they are partitions of, and with their own partitions.
    WITH RECURSIVE above(oid) AS (
        SELECT unnest(changed)
        UNION SELECT i.inhparent FROM pg_inherits i JOIN above ON i.inhrelid = above.oid
    ), below(oid) AS (
        SELECT unnest(changed)
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN below ON i.inhparent = below.oid
    )
    SELECT jsonb_agg(jsonb_build_array(n.nspname, c.relname)) INTO altered
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid IN (SELECT oid FROM above UNION SELECT oid FROM below)
        AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
    IF coalesce(altered, dropped) IS NOT NULL THEN
        PERFORM pg_logical_emit_message(true, 'walpurge.ddl', jsonb_strip_nulls(
            jsonb_build_object('command', tg_tag, 'altered', altered, 'dropped', dropped))::text);
    END IF;
END
$walpurge$;

DROP EVENT TRIGGER IF EXISTS walpurge_sql_drop;
DROP EVENT TRIGGER IF EXISTS walpurge_table_rewrite;
DROP EVENT TRIGGER IF EXISTS walpurge_ddl_command_end;
CREATE EVENT TRIGGER walpurge_sql_drop ON sql_drop EXECUTE FUNCTION walpurge.ddl();
CREATE EVENT TRIGGER walpurge_table_rewrite ON table_rewrite EXECUTE FUNCTION walpurge.ddl();
CREATE EVENT TRIGGER walpurge_ddl_command_end ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'ALTER SCHEMA', 'ALTER EXTENSION')
    EXECUTE FUNCTION walpurge.ddl();
COMMIT;
