//! A root, and a certificate of it for 127.0.0.1, which servers and clients show alike.

use std::path::PathBuf;
use std::process::Command;

use testkit::TestDir;
use testkit::redis::Builder;
use walpurge::sinks::redis::RedisTls;

pub struct Certificates {
    dir: TestDir,
}

impl Certificates {
    #[track_caller]
    pub fn make() -> Self {
        let dir = TestDir::new("certificates");
        let openssl = |args: &str| {
            let output =
                Command::new("openssl").args(args.split(' ')).current_dir(dir.path()).output();
            let output = output.expect("openssl is installed");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -keyout root.key -out root.pem -days 2 -subj /CN=root"));
        openssl(&format!("req {key} -keyout redis.key -out redis.csr -subj /CN=redis"));
        std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            "x509 -req -in redis.csr -CA root.pem -CAkey root.key -CAcreateserial -out redis.pem \
             -days 2 -extfile names",
        );
        Certificates { dir }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A server that speaks TLS alone; `clients` are `no`, `optional` or `yes`.
    pub fn server(&self, builder: Builder, clients: &str) -> Builder {
        builder
            .tls(self.file("root.pem"), self.file("redis.pem"), self.file("redis.key"))
            .config("tls-auth-clients", clients)
    }

    /// What trusts the root and shows nothing.
    pub fn trusting(&self) -> RedisTls {
        RedisTls { root: Some(self.file("root.pem")), ..RedisTls::default() }
    }

    /// What trusts the root and shows its own certificate.
    pub fn mutual(&self) -> RedisTls {
        let (cert, key) = (self.file("redis.pem"), self.file("redis.key"));
        RedisTls { cert: Some(cert), key: Some(key), ..self.trusting() }
    }
}
