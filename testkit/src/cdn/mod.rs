//! Local CDNs: HTTP servers on free ports that keep to what providers document, and remember what
//! was purged; a real Varnish in front of an application; and moto, which others have written.

mod cloudfront;
mod exchange;
mod fastly;
mod moto;
mod origin;
mod server;
mod varnish;

pub use cloudfront::{CloudFront, CloudFrontRules};
pub use exchange::exchange;
pub use fastly::{Fastly, FastlyRules};
pub use moto::{Moto, ask_with_botocore};
pub use origin::Origin;
pub use server::{Fault, HttpServer, Request, Response};
pub use varnish::{Page, Varnish};
