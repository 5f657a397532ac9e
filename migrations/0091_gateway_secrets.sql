-- What the gateways of a tenant sign their messages with. A signature is checked with the secret
-- itself, so no hash would do. Up to two of a gateway are good at once, while one takes the place of
-- the other.
create table brigade.gateway_secrets (
    tenant      text        not null,
    gateway     text        not null,
    fingerprint text        not null, -- the first 16 digits of its SHA-256, by which people name it
    format      text        not null check (format in ('stripe')),
    secret      text        not null,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (tenant, gateway, fingerprint)
);
