//! What is found about the publication, and which plugin fits.

use super::{Findings, PRODUCTS, RULE, Scene, pg};

/// pgoutput is configured, and the table is there.
fn scene() -> Scene {
    let mut scene = Scene::with(pg().start(), RULE);
    scene.sql(PRODUCTS);
    scene.edit("[redis.cache]", "plugin = \"pgoutput\"\n[redis.cache]");
    scene
}

/// What setup prints, run by a superuser.
fn set_up(scene: &Scene) {
    let output = scene.walpurge("setup").arg("--print").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    scene.sql(&String::from_utf8(output.stdout).unwrap());
}

fn note(findings: &Findings) -> &str {
    &findings.one("note", "plugins").message
}

#[test]
fn a_publication_of_setup_is_in_order() {
    let scene = scene();
    set_up(&scene);
    let findings = scene.findings();
    let ok = findings.one("ok", "publication walpurge");
    assert_eq!(ok.message, "it carries what the rules need: 1 table");
    assert_eq!(note(&findings), "pgoutput fits: every table of the rules has a replica identity");
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn one_that_is_missing_is_made_by_setup() {
    let scene = scene();
    scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')");
    let findings = scene.findings();
    assert_eq!((findings.code, findings.subjects("failed")), (1, vec!["publication walpurge"]));
    let failed = findings.one("failed", "publication walpurge");
    assert!(failed.message.starts_with("there is none"), "{failed:?}");
    assert!(failed.hint.contains("walpurge setup --print"), "{failed:?}");
    set_up(&scene);
    assert_eq!(scene.check(&["--strict"]).code, 0);
}

#[test]
fn what_it_does_not_carry_is_named_and_mended_by_setup() {
    let scene = scene();
    scene.sql("ALTER TABLE products ADD price int");
    set_up(&scene);
    for (change, says) in [
        ("DROP TABLE products", "it does not carry table public.products (rule product)"),
        ("SET (publish = 'insert, update, truncate')", "delete of table public.products"),
        ("SET TABLE products WHERE (id > 7)", "the rows of table public.products that its row"),
        ("SET TABLE products (slug)", "column id of table public.products (rule product)"),
        ("SET TABLE products (slug)", "every UPDATE and DELETE of public.products fails: the list"),
    ] {
        scene.sql(&format!("ALTER PUBLICATION walpurge {change}"));
        let findings = scene.findings();
        let failed = findings.list.iter().filter(|it| it.status == "failed");
        let failed: Vec<_> =
            failed.inspect(|it| assert!(it.hint.contains("walpurge setup"))).collect();
        assert!(failed.iter().any(|it| it.message.contains(says)), "{says}: {failed:?}");
        set_up(&scene);
        assert_eq!(scene.check(&["--strict"]).code, 0, "{change}");
    }
}

#[test]
fn tables_whose_statements_fail_are_named() {
    let scene = scene();
    scene.sql("CREATE TABLE \"np 1\" (id int); CREATE PUBLICATION walpurge FOR ALL TABLES");
    scene.sql("SELECT pg_create_logical_replication_slot('walpurge', 'pgoutput')");
    let findings = scene.findings();
    let failed = findings.one("failed", "publication walpurge");
    assert_eq!(
        failed.message,
        "every UPDATE and DELETE of public.\"np 1\" fails: it has no replica identity"
    );
    scene.sql(failed.hint.split_once("  or ").unwrap().0);
    let findings = scene.findings();
    let ok = findings.one("ok", "publication walpurge");
    assert!(ok.message.ends_with("all tables, not made by walpurge setup"), "{ok:?}");
    assert_eq!(findings.code, 0);
}

#[test]
fn the_plugin_that_fits_the_server_is_named() {
    let mut scene = Scene::new();
    let findings = scene.findings();
    assert!(note(&findings).starts_with("wal2json fits; pgoutput comes with"), "{findings:?}");
    assert!(note(&findings).ends_with("postgres, who owns the tables, has to make"));
    scene.sql("ALTER TABLE products DROP CONSTRAINT products_pkey");
    let findings = scene.findings();
    let says = "wal2json fits: with pgoutput, which is faster, public.products has no replica";
    assert!(note(&findings).starts_with(says), "{findings:?}");
    scene.edit("[redis.cache]", "plugin = \"pgoutput\"\nslot = \"other\"\n[redis.cache]");
    let findings = scene.findings();
    assert!(note(&findings).starts_with("wal2json fits better than pgoutput"), "{findings:?}");
    let rule = findings.one("failed", "rule product");
    assert!(rule.message.contains("while it is published, every UPDATE or DELETE"), "{rule:?}");
}
