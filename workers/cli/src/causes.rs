/// Returns an error with its causes, separated by colons. A cause that stands there already is left
/// out: many libraries print the causes of an error with the error itself.
pub fn causes(error: &anyhow::Error) -> String {
    let chain = format!("{error:#}");
    let mut causes: Vec<&str> = Vec::new();
    for cause in chain.split(": ") {
        if causes.iter().any(|earlier| earlier.ends_with(cause)) {
            continue;
        }
        // `timed out: request timed out`
        causes.pop_if(|last| cause.ends_with(*last));
        causes.push(cause);
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_named_once() {
        for (chain, expected) in [
            (
                "timed out: request timed out: deadline has elapsed: request timed out: deadline \
                 has elapsed",
                "request timed out: deadline has elapsed",
            ),
            (
                "cannot connect to NATS: authorization violation: nats: authorization violation",
                "cannot connect to NATS: authorization violation: nats",
            ),
            (
                "cannot listen on 127.0.0.1:80: Address already in use (os error 98)",
                "cannot listen on 127.0.0.1:80: Address already in use (os error 98)",
            ),
        ] {
            assert_eq!(causes(&anyhow::anyhow!(chain)), expected);
        }
    }
}
