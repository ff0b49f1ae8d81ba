-- Roles of OrderFlow ingest: who may do what in this database. `orderflow-admin roles postgresql` prints it; a superuser
-- runs it, as roles belong to the whole cluster, after the first `orderflow-admin init` and after each one that brought
-- a new version. To run it again is safe: it revokes all rights of these roles and grants them again.
--
--     orderflow-admin roles postgresql | runuser -u postgres -- psql -v ON_ERROR_STOP=1 -d DATABASE -f -
--
-- The roles below are groups. Those that log in are yours, one for each program, each with a password of its own; psql's
-- \password sends it encrypted, so that it stands in no log:
--
--     CREATE ROLE orderflow_service LOGIN IN ROLE orderflow_deliver;        -- DATABASE_URL of deliver and the service
--     CREATE ROLE orderflow_huey LOGIN IN ROLE orderflow_worker;            -- DATABASE_URL of the worker
--     CREATE ROLE orderflow_postfix LOGIN IN ROLE orderflow_map;            -- MAP_DATABASE_URL
--     CREATE ROLE orderflow_exporter LOGIN IN ROLE orderflow_metrics;       -- DATABASE_URL of orderflow-metrics
--     CREATE ROLE orderflow_admin LOGIN IN ROLE orderflow_operator;         -- DATABASE_URL of an operator
--     \password orderflow_service
--
-- Then run the script once more: it gives each role that logs in its time limits, which a pooler does not pass on.
-- The owner of the tables, who runs `init`, is bound by no row-level security; let no program deliver as the owner.

BEGIN;
-- Whoever may make functions in a schema of this path would have a superuser run them: ours is named each time.
SET LOCAL search_path = pg_catalog, pg_temp;
-- Nothing waits here for long: behind us all mail would.
SET LOCAL lock_timeout = '5s';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['orderflow_map', 'orderflow_deliver', 'orderflow_worker', 'orderflow_metrics', 'orderflow_operator']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
    -- No other role of the cluster has any business here, and no role may put a table in front of ours. A role that you
    -- made by hand before, for Postfix's map say, needs GRANT CONNECT here and USAGE on the schema, or one of the groups.
    EXECUTE format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;

REVOKE ALL ON SCHEMA @SCHEMA@ FROM PUBLIC;

-- The owner of the tables may have lived by the rights of PUBLIC: the schema may be another's, as in PostgreSQL up to 14.
DO $$
DECLARE
    owner text := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = '@SCHEMA@.organization'::regclass);
BEGIN
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), owner);
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA @SCHEMA@ TO %I', owner);
END $$;
GRANT USAGE ON SCHEMA @SCHEMA@
    TO orderflow_map, orderflow_deliver, orderflow_worker, orderflow_metrics, orderflow_operator;
REVOKE ALL ON ALL TABLES IN SCHEMA @SCHEMA@
    FROM PUBLIC, orderflow_map, orderflow_deliver, orderflow_worker, orderflow_metrics, orderflow_operator;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA @SCHEMA@
    FROM PUBLIC, orderflow_map, orderflow_deliver, orderflow_worker, orderflow_metrics, orderflow_operator;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @SCHEMA@
    FROM orderflow_map, orderflow_deliver, orderflow_worker, orderflow_metrics, orderflow_operator;
-- Who may make large objects may fill the disk.
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea), lo_put(oid, bigint, bytea),
    lowrite(integer, bytea) FROM PUBLIC;

-- Postfix's recipient map: the slugs of active organizations, and nothing else.
GRANT SELECT ON @SCHEMA@.recipient TO orderflow_map;

-- A delivery: finds its organization, looks for the message's identity, adds the message or holds it. Of the rows it
-- sees those of the organizations that its transaction names. It changes and deletes nothing.
GRANT SELECT (id, slug, name, is_active, settings) ON @SCHEMA@.organization TO orderflow_deliver;
GRANT SELECT, INSERT ON @SCHEMA@.inbound_message, @SCHEMA@.held_mail TO orderflow_deliver;
GRANT SELECT ON @SCHEMA@.alembic_version TO orderflow_deliver;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_overdue_since() TO orderflow_deliver;

-- The worker: it delivers what was left in the spool too. Of a message it changes how far it is, never what came.
GRANT orderflow_deliver TO orderflow_worker;
GRANT UPDATE (status, attempts, next_attempt_at, worker, error_json) ON @SCHEMA@.inbound_message TO orderflow_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON @SCHEMA@.document TO orderflow_worker;
GRANT SELECT, INSERT, DELETE ON @SCHEMA@.skipped_part TO orderflow_worker;
GRANT SELECT, INSERT ON @SCHEMA@.message_event TO orderflow_worker;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_due_messages(timestamptz, integer) TO orderflow_worker;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_due_documents(timestamptz, integer) TO orderflow_worker;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_messages_to_sweep(timestamptz, timestamptz, integer),
    @SCHEMA@.orderflow_documents_to_sweep(timestamptz, timestamptz, integer), @SCHEMA@.orderflow_messages_in_hand(text),
    @SCHEMA@.orderflow_documents_in_hand(text) TO orderflow_worker;
GRANT SELECT, INSERT, UPDATE ON @SCHEMA@.sweep_claim TO orderflow_worker;

-- Monitoring: numbers of rows, and a time. Not one row of a tenant.
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_census() TO orderflow_metrics;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_overdue_since() TO orderflow_metrics;

-- An operator: all tenants.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON @SCHEMA@.organization, @SCHEMA@.inbound_message, @SCHEMA@.document, @SCHEMA@.skipped_part,
        @SCHEMA@.held_mail, @SCHEMA@.message_event, @SCHEMA@.operator_run
    TO orderflow_operator;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA @SCHEMA@ TO orderflow_operator;
-- A rebuild gives organizations their ids back, and moves on what gives the next one.
GRANT SELECT, UPDATE ON SEQUENCE @SCHEMA@.organization_id_seq TO orderflow_operator;
GRANT SELECT ON @SCHEMA@.alembic_version, @SCHEMA@.recipient TO orderflow_operator;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_due_messages(timestamptz, integer) TO orderflow_operator;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_due_documents(timestamptz, integer) TO orderflow_operator;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_messages_to_sweep(timestamptz, timestamptz, integer),
    @SCHEMA@.orderflow_documents_to_sweep(timestamptz, timestamptz, integer), @SCHEMA@.orderflow_messages_in_hand(text),
    @SCHEMA@.orderflow_documents_in_hand(text) TO orderflow_operator;
GRANT SELECT, INSERT, UPDATE ON @SCHEMA@.sweep_claim TO orderflow_operator;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_overdue_since() TO orderflow_operator;
GRANT EXECUTE ON FUNCTION @SCHEMA@.orderflow_census() TO orderflow_operator;

-- Only where it is missing: making one locks the table.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['inbound_message', 'document', 'skipped_part', 'held_mail', 'message_event'] LOOP
        IF NOT EXISTS (
            SELECT FROM pg_policy WHERE polname = 'operator' AND polrelid = ('@SCHEMA@.' || name)::regclass
        ) THEN
            EXECUTE format(
                'CREATE POLICY operator ON @SCHEMA@.%I TO orderflow_operator USING (true) WITH CHECK (true)', name
            );
        END IF;
    END LOOP;
END $$;

-- The queue, where QUEUE_URL is this database. Who delivers adds a task and counts those that wait; the worker takes
-- them, and keeps what Huey remembers: the schedule, locks and what was revoked. Tasks hold ids alone.
DO $$
BEGIN
    IF to_regclass('@SCHEMA@.huey_task') IS NOT NULL THEN
        GRANT SELECT (queue) ON @SCHEMA@.huey_task TO orderflow_metrics;
        GRANT SELECT (queue), INSERT (queue, data, priority) ON @SCHEMA@.huey_task TO orderflow_deliver;
        GRANT USAGE ON SEQUENCE @SCHEMA@.huey_task_id_seq TO orderflow_deliver;
        GRANT SELECT, INSERT, UPDATE, DELETE
            ON @SCHEMA@.huey_task, @SCHEMA@.huey_schedule, @SCHEMA@.huey_kv, @SCHEMA@.huey_counter
            TO orderflow_worker, orderflow_operator;
        GRANT USAGE ON SEQUENCE @SCHEMA@.huey_task_id_seq, @SCHEMA@.huey_schedule_id_seq
            TO orderflow_worker, orderflow_operator;
    END IF;
END $$;

-- For how long a session may keep others waiting, and its time zone, of each role that logs in as a member. Programs ask
-- for the same at each connection, but a pooler such as pgbouncer drops that. Settings of a group are not inherited.
DO $$
DECLARE
    name text;
    bound text;
BEGIN
    FOR name IN
        SELECT rolname FROM pg_roles r WHERE rolcanlogin AND NOT rolsuper AND EXISTS (
            SELECT FROM unnest(ARRAY['orderflow_map', 'orderflow_deliver', 'orderflow_worker', 'orderflow_metrics',
                'orderflow_operator']) AS of_ours WHERE pg_has_role(r.oid, of_ours, 'MEMBER')
        )
    LOOP
        FOREACH bound IN ARRAY ARRAY[@BOUNDS@] LOOP
            EXECUTE format('ALTER ROLE %I IN DATABASE %I ', name, current_database()) || bound;
        END LOOP;
    END LOOP;
END $$;
COMMIT;
