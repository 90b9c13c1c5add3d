//! Second opinions on what CloudFront is asked: moto's server, which others have written, and
//! botocore, which is Amazon's own.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_cloudfront::Client;
use aws_sdk_cloudfront::config::Credentials;
use aws_sdk_cloudfront::types::{
    DefaultCacheBehavior, DistributionConfig, Origin, Origins, S3OriginConfig, ViewerProtocolPolicy,
};
use testkit::cdn::{CloudFront, HttpServer, Moto, Request, Response, ask_with_botocore, exchange};
use walpurge::sinks::cdn::cloudfront::{CloudFrontLane, CloudFrontSink, Part};

use super::*;

/// What needs care in a path, in XML, and in a tag.
const HOSTILE: [(Verb, &str); 5] = [
    (Verb::PurgePath, "/a b&<c>\"'"),
    (Verb::PurgePath, "/caf\u{e9}?x=1&y=%2F"),
    (Verb::PurgePath, "/p/*"),
    (Verb::PurgeKey, "p:1&<x>\"'"),
    (Verb::PurgeKey, "category-7"),
];

/// A distribution behind `endpoint`.
#[track_caller]
fn sink(endpoint: &str, distribution: &str) -> Arc<CloudFrontSink> {
    let text = format!(
        "[postgres]\nurl = 'postgres://h/d'\n[cloudfront.site]\n\
         distribution_id = '{distribution}'\nendpoint = '{endpoint}'\n\
         max_requests_per_second = 200\n[[rule]]\ntable = 's.t'\npurge_keys = ['x']"
    );
    let loaded = parse("t", &text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let CdnParts::CloudFront(mut options) = loaded.config.cdn[0].parts(Kept::Nothing).unwrap()
    else {
        panic!("another kind")
    };
    options.credentials = Some(("AKIDEXAMPLE".to_owned(), "not-a-secret".to_owned().into()));
    Arc::new(CloudFrontSink::new(options))
}

/// Amazon's client, for what the sink does not ask.
async fn client(endpoint: &str) -> Client {
    let keys = Credentials::new("AKIDEXAMPLE", "not-a-secret", None, None, "test");
    let loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new("us-east-1"));
    Client::new(&loader.endpoint_url(endpoint).credentials_provider(keys).load().await)
}

/// Makes a distribution: its ID.
#[allow(deprecated, reason = "the shortest description that is accepted")]
async fn distribution(client: &Client) -> String {
    let origin = Origin::builder()
        .id("o")
        .domain_name("o.s3.amazonaws.com")
        .s3_origin_config(S3OriginConfig::builder().origin_access_identity("").build());
    let origins = Origins::builder().quantity(1).items(origin.build().unwrap());
    let behavior = DefaultCacheBehavior::builder()
        .target_origin_id("o")
        .viewer_protocol_policy(ViewerProtocolPolicy::AllowAll);
    let config = DistributionConfig::builder()
        .caller_reference("r")
        .comment("")
        .enabled(true)
        .origins(origins.build().unwrap())
        .default_cache_behavior(behavior.build().unwrap());
    let made = client.create_distribution().distribution_config(config.build().unwrap());
    made.send().await.unwrap().distribution.unwrap().id
}

/// moto, which says of an invalidation that has just been made that it is under way.
fn slow(moto: &Moto) -> HttpServer {
    let port = moto.port();
    HttpServer::start(move |request| {
        let mut response = exchange(port, request)
            .unwrap_or_else(|error| Response::new(502, format!("{error:#}")));
        if request.method == "POST" {
            let text = String::from_utf8_lossy(&response.body);
            response.body = text.replace("COMPLETED", "InProgress").into_bytes();
        }
        response
    })
}

#[tokio::test]
async fn moto_takes_what_is_asked_lists_it_and_ends_the_watch() {
    let moto = Moto::start();
    let amazon = client(&moto.url()).await;
    let distribution = distribution(&amazon).await;
    let slow = slow(&moto);
    let sink = sink(&slow.url(), &distribution);
    sink.check().await.unwrap();
    slow.forget();
    let report = CloudFrontLane::new(sink, Part::Prompt).send(&batch(HOSTILE)).await.unwrap();
    assert_eq!((rejected(&report), report.requested), (vec![], 5));
    let asked: Vec<_> = slow.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(asked, ["POST", "GET"], "it is made, and looked at once");

    let listed = amazon.list_invalidations().distribution_id(&distribution).send().await.unwrap();
    let listed = listed.invalidation_list.unwrap();
    assert_eq!(listed.items().len(), 1);
    let id = listed.items()[0].id();
    let found = amazon.get_invalidation().distribution_id(&distribution).id(id);
    let found = found.send().await.unwrap().invalidation.unwrap();
    let known = found.invalidation_batch().unwrap().paths().unwrap().items();
    let expected =
        ["/p/*", "/a%20b&%3Cc%3E%22'", "/caf%C3%A9?x=1&y=%2F", "#p:1&<x>\"'", "#category-7"];
    assert_eq!(sorted(known.to_vec()), sorted(expected.map(str::to_owned).to_vec()));
}

/// A body in which quotes stand for themselves, as both forms are the same text to XML.
fn unquoted(request: &Request) -> String {
    request.text().replace("&apos;", "'").replace("&quot;", "\"")
}

/// The region and the service that a request is signed for.
fn scope(request: &Request) -> Option<String> {
    let signature = request.header("authorization")?;
    let (credential, _) = signature.split_once(',')?;
    Some(credential.splitn(3, '/').nth(2)?.to_owned())
}

#[tokio::test]
async fn botocore_sends_the_same_request_for_the_same_items() {
    let cloudfront = CloudFront::start();
    let url = cloudfront.server().url();
    cloudfront.allow(|rules| rules.looks = 1);
    let sink = sink(&url, cloudfront.distribution());
    CloudFrontLane::new(sink, Part::Prompt).send(&batch(HOSTILE)).await.unwrap();
    let ours = cloudfront.server().requests();
    let text = ours[0].text();
    let (_, reference) = text.split_once("<CallerReference>").unwrap();
    let (reference, _) = reference.split_once("</CallerReference>").unwrap();
    let items = cloudfront.invalidations().concat();

    cloudfront.server().forget();
    ask_with_botocore(&url, cloudfront.distribution(), reference, &items);
    let theirs = cloudfront.server().requests();
    assert_eq!((ours.len(), theirs.len()), (2, 2));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((&ours.method, &ours.target), (&theirs.method, &theirs.target));
        assert_eq!(unquoted(ours), unquoted(theirs));
        assert_eq!(scope(ours), scope(theirs));
    }
    assert_eq!(cloudfront.invalidations().len(), 1, "the same reference for the same items");
}
