//! The main job: a committed row change removes its Redis keys.

use crate::world::World;

const PRODUCTS: &str = "CREATE TABLE products (id bigint PRIMARY KEY, slug text, price numeric);
    ALTER TABLE products REPLICA IDENTITY FULL;
    INSERT INTO products VALUES (1, 'one', 1.10), (2, 'two', 2), (3, 'three', 3)";

const RULE: &str = r#"
[[rule]]
name = "product"
table = "public.products"
delete = ["product:{id}", "product:slug:{slug}"]
"#;

#[test]
fn insert_update_and_delete_remove_their_keys_and_no_others() {
    let mut world = World::new(PRODUCTS, RULE);
    world.start();
    world.fill(&["product:1", "product:2", "product:3", "product:4", "product:slug:two"]);
    world.sql("INSERT INTO products VALUES (4, 'four', 4)");
    world.wait_gone(&["product:4"]);
    world.sql("UPDATE products SET price = 5 WHERE id = 1");
    world.wait_gone(&["product:1"]);
    world.sql("DELETE FROM products WHERE id = 2");
    world.wait_gone(&["product:2", "product:slug:two"]);
    world.wait_confirmed();
    world.assert_cached(&["product:3"]);
    world.stop();
}
