//! The shop: its tables, what it keeps in the cache, and the rules that make the two agree.

/// The tables, and rows for them. Old values of columns that are no key reach walpurge only with
/// REPLICA IDENTITY FULL: a product that moves has to invalidate the category that it leaves.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE categories (id int PRIMARY KEY, slug text NOT NULL, name text NOT NULL);
    CREATE TABLE products (
        id int PRIMARY KEY, slug text NOT NULL UNIQUE, name text NOT NULL,
        category_id int NOT NULL REFERENCES categories, price numeric(8, 2) NOT NULL);
    CREATE TABLE orders (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        customer_id int NOT NULL, product_id int NOT NULL, quantity int NOT NULL);
    CREATE TABLE reviews (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        product_id int NOT NULL REFERENCES products ON DELETE CASCADE,
        stars int NOT NULL, body text NOT NULL);
    ALTER TABLE products REPLICA IDENTITY FULL;
    ALTER TABLE orders REPLICA IDENTITY FULL;
    ALTER TABLE reviews REPLICA IDENTITY FULL;

    INSERT INTO categories VALUES
        (1, 'coffee', 'Coffee'), (2, 'tea', 'Tea'), (3, 'kitchen', 'Kitchen');
    INSERT INTO products VALUES
        (1, 'espresso-beans', 'Espresso beans', 1, 14.90),
        (2, 'filter-beans', 'Filter beans', 1, 12.50),
        (3, 'sencha', 'Sencha', 2, 9.80),
        (4, 'masala-chai', 'Masala chai', 2, 7.20),
        (5, 'milk-frother', 'Milk frother', 1, 39.00);
    INSERT INTO products SELECT 100 + n, 'kitchen-' || n, 'Kitchen thing ' || n, 3, 10 + n
        FROM generate_series(1, 200) n;
    INSERT INTO reviews (product_id, stars, body)
        SELECT id, 5, 'As it should be.' FROM products WHERE id < 10;
";

/// How many products the last category has.
pub(crate) const KITCHEN_PRODUCTS: usize = 200;

/// The rules, in the words of config.toml.example.
pub(crate) const RULES: &str = r#"[[rule]]
name = "product"
table = "public.products"
delete = ["product:{id}", "product:slug:{slug}"]
bump = ["category:{category_id}:version"]

[[rule]]
name = "menu"
table = "public.categories"
on = ["update", "delete", "truncate"]
delete_matching = ["menu:*"]

[[rule]]
name = "order"
table = "public.orders"
tags = ["customer:{customer_id}"]

[[rule]]
name = "review"
table = "public.reviews"
delete = ["product:{product_id}:reviews"]
"#;

/// The version counters from which category pages build their keys.
pub(crate) const VERSIONS: &[(&str, &str)] =
    &[("category:1:version", "41"), ("category:2:version", "17"), ("category:3:version", "8")];

/// Keys that carry a tag.
pub(crate) const TAGGED: &[(&str, &[&str])] = &[
    ("customer:7", &["customer:7:orders", "page:/account/7"]),
    ("customer:8", &["customer:8:orders", "page:/account/8"]),
];

/// What shares the database with the shop's cache and belongs to no rule.
pub(crate) const FOREIGN: &[&str] =
    &["session:4f1c9a", "cart:7", "queue:mail", "rate:198.51.100.7", "products", "product"];

/// Everything else that is in the cache when the story begins.
pub(crate) fn cached_keys() -> Vec<String> {
    let slugs = ["espresso-beans", "filter-beans", "sencha", "masala-chai", "milk-frother"];
    let mut keys: Vec<String> = vec!["menu:main".into(), "menu:footer".into()];
    for (id, slug) in (1..).zip(slugs) {
        keys.push(format!("product:{id}"));
        keys.push(format!("product:slug:{slug}"));
        keys.push(format!("product:{id}:reviews"));
    }
    keys.extend(kitchen_keys());
    // Pages are found by their category's version: an old version's pages are never read again.
    for (version, value) in VERSIONS {
        let category = version.trim_end_matches(":version");
        keys.extend((1..=3).map(|page| format!("{category}:v{value}:page:{page}")));
    }
    keys
}

/// The keys of the last category's products.
pub(crate) fn kitchen_keys() -> impl Iterator<Item = String> {
    (1..=KITCHEN_PRODUCTS)
        .flat_map(|n| [format!("product:{}", 100 + n), format!("product:slug:kitchen-{n}")])
}
