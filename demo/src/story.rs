//! What happens in the shop, and what has to follow from it.

use crate::shop;

/// One transaction, with everything that may and must go because of it.
pub(crate) struct Step {
    pub(crate) title: &'static str,
    /// The statements, BEGIN and COMMIT among them where there are several.
    pub(crate) sql: &'static [&'static str],
    /// The keys that must go. All are in the cache when the step begins.
    pub(crate) gone: Vec<String>,
    /// The counters that must rise.
    pub(crate) bumped: Vec<String>,
}

/// The story.
pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step {
            title: "A price changes",
            sql: &["UPDATE products SET price = 15.90 WHERE id = 1;"],
            gone: keys(&["product:1", "product:slug:espresso-beans"]),
            bumped: keys(&["category:1:version"]),
        },
        Step {
            title: "A slug changes: the old page goes, and the miss cached at the new one",
            sql: &["UPDATE products SET slug = 'house-espresso' WHERE id = 1;"],
            gone: keys(&[
                "product:1",
                "product:slug:espresso-beans",
                "product:slug:house-espresso",
            ]),
            bumped: keys(&["category:1:version"]),
        },
        Step {
            title: "A product moves: both categories show something else now",
            sql: &["UPDATE products SET category_id = 2 WHERE id = 5;"],
            gone: keys(&["product:5", "product:slug:milk-frother"]),
            bumped: keys(&["category:1:version", "category:2:version"]),
        },
        Step {
            title: "An order: whatever carries the customer's tag goes",
            sql: &[
                "INSERT INTO orders (customer_id, product_id, quantity) VALUES (7, 1, 2), (7, 3, 1);",
            ],
            gone: keys(&["customer:7:orders", "page:/account/7"]),
            bumped: vec![],
        },
        Step {
            title: "One transaction, 200 products and a category",
            sql: &[
                "BEGIN;",
                "UPDATE products SET price = round(price * 0.9, 2) WHERE category_id = 3;",
                "UPDATE categories SET name = 'Kitchen (sale)' WHERE id = 3;",
                "COMMIT;",
            ],
            gone: shop::kitchen_keys().chain(keys(&["menu:main", "menu:footer"])).collect(),
            bumped: keys(&["category:3:version"]),
        },
        Step {
            title: "A product is deleted, and its reviews by the foreign key",
            sql: &["DELETE FROM products WHERE id = 4;"],
            gone: keys(&["product:4", "product:slug:masala-chai", "product:4:reviews"]),
            bumped: keys(&["category:2:version"]),
        },
        Step {
            title: "A transaction is rolled back: nothing happens",
            sql: &["BEGIN;", "UPDATE products SET price = 0;", "DELETE FROM reviews;", "ROLLBACK;"],
            gone: vec![],
            bumped: vec![],
        },
        Step {
            title: "TRUNCATE names no rows: the rule's fallback takes every key of its kind",
            sql: &["TRUNCATE reviews;"],
            gone: keys(&[
                "product:1:reviews",
                "product:2:reviews",
                "product:3:reviews",
                "product:5:reviews",
            ]),
            bumped: vec![],
        },
    ]
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}
