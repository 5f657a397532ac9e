use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected, Visitor},
};

use crate::{MAX_AMOUNT, Refusal};

/// An amount in the minor unit of its currency (cents), never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Money(i64);

impl Money {
    pub const ZERO: Self = Self(0);

    /// # Errors
    /// `422 negative_amount`.
    pub fn new(minor_units: i64) -> Result<Self, Refusal> {
        if minor_units < 0 {
            return Err(Refusal::new(422, "negative_amount", "an amount cannot be negative"));
        }
        Ok(Self(minor_units))
    }

    #[must_use]
    pub fn minor_units(self) -> i64 {
        self.0
    }

    /// # Errors
    /// `422 amount_overflow` where the sum does not fit.
    pub fn plus(self, other: Self) -> Result<Self, Refusal> {
        self.0.checked_add(other.0).map(Self).ok_or_else(overflow)
    }

    /// # Errors
    /// `422 amount_overflow` where the product does not fit.
    pub fn times(self, quantity: Quantity) -> Result<Self, Refusal> {
        self.0.checked_mul(i64::from(quantity.get())).map(Self).ok_or_else(overflow)
    }

    /// The amount itself. Sums of what was let in are not bounded by this.
    ///
    /// # Errors
    /// `422 amount_overflow` above [`MAX_AMOUNT`].
    pub fn bounded(self) -> Result<Self, Refusal> {
        if self.0 <= MAX_AMOUNT {
            return Ok(self);
        }
        let message = format!("no more than {MAX_AMOUNT} at once");
        Err(Refusal::new(422, "amount_overflow", message))
    }

    /// The difference, 0 where `other` is larger.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }
}

fn overflow() -> Refusal {
    Refusal::new(422, "amount_overflow", "the sum of the amounts is too large")
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_i64(MinorUnits)
    }
}

/// Reads an amount, and says what one is where something else stands.
struct MinorUnits;

impl Visitor<'_> for MinorUnits {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("money, a whole number of cents (the smallest unit of its currency)")
    }

    fn visit_i64<E: Error>(self, units: i64) -> Result<Money, E> {
        Money::new(units).map_err(Refusal::into_serde)
    }

    fn visit_u64<E: Error>(self, units: u64) -> Result<Money, E> {
        match i64::try_from(units) {
            Ok(units) => self.visit_i64(units),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(units), &self)),
        }
    }
}

/// A number of pieces of an item: 1 to 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(u16);

impl Quantity {
    /// # Errors
    /// `422 quantity_out_of_range` outside 1 to 999.
    pub fn new(quantity: i64) -> Result<Self, Refusal> {
        match u16::try_from(quantity) {
            Ok(quantity @ 1..=999) => Ok(Self(quantity)),
            _ => Err(Refusal::new(422, "quantity_out_of_range", "a quantity is 1 to 999")),
        }
    }

    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

/// An ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "&'static str")]
pub struct Currency(&'static str);

impl Currency {
    /// # Errors
    /// `422 unknown_currency` for anything but a current ISO 4217 code in upper case.
    pub fn new(code: &str) -> Result<Self, Refusal> {
        Self::all()
            .find(|known| *known == code)
            .map(Self)
            .ok_or_else(|| Refusal::new(422, "unknown_currency", "not a currency of ISO 4217"))
    }

    /// All of them, sorted.
    pub fn all() -> impl Iterator<Item = &'static str> {
        ISO_4217.split_ascii_whitespace()
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl From<Currency> for &'static str {
    fn from(currency: Currency) -> Self {
        currency.0
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(Refusal::into_serde)
    }
}

/// The active codes of ISO 4217 list one, without the metals, the funds and the testing codes.
const ISO_4217: &str = "\
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN \
    BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL \
    GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF \
    KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN \
    MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD \
    SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH \
    UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_checked() {
        let most = Money::new(i64::MAX).unwrap();
        assert_eq!(most.plus(Money::new(1).unwrap()).unwrap_err().code, "amount_overflow");
        assert_eq!(most.times(Quantity::new(2).unwrap()).unwrap_err().code, "amount_overflow");
        assert_eq!(Money::new(3).unwrap().less(Money::new(5).unwrap()), Money::ZERO);
        assert_eq!(Money::new(-1).unwrap_err().code, "negative_amount");
        assert_eq!(Money::new(MAX_AMOUNT).unwrap().bounded().unwrap().minor_units(), MAX_AMOUNT);
        assert_eq!(
            Money::new(MAX_AMOUNT + 1).unwrap().bounded().unwrap_err().code,
            "amount_overflow"
        );
    }

    #[test]
    fn a_currency_is_a_listed_code_in_upper_case() {
        assert_eq!(Currency::new("EUR").unwrap().as_str(), "EUR");
        for bad in ["eur", "EURO", "XXX", "", "E R", "EUR USD"] {
            assert_eq!(Currency::new(bad).unwrap_err().code, "unknown_currency");
        }
    }
}
