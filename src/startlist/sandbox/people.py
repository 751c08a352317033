"""Made-up people, answers and fees, drawn from a seeded generator."""

import random
from datetime import date
from typing import Any

from .rows import Person, Rest
from .wire import money, words

FIRST = words(
    "Ann Ben Carla Dario Ella Finn Grace Hugo Iris Jack Kim Liam Maya Noah Olga Paul Quinn Rosa Sam Tess Uma Victor "
    "Wendy Xavier Yara Zack Zoë José Łukasz Siân Renée Nuño Ming Aïcha Søren Anne-Marie"
)
LAST = words(
    "Adams Baker Carter Diaz Evans Fisher Garcia Hughes Irwin Jones Keller Lopez Meyer Novak Owens Perez Quist Reyes "
    "Smith Turner Unger Vance Walsh Young Ziegler O'Brien Nuñez Müller Björk Nguyễn Çelik d'Arcy"
)
ODD_FIRST = (" Kim", "Jo ", 'Bill "Speedy"', "R&B", "A+", "100% Al", "日向", "Mary  Jo")
ODD_LAST = ("Smith & Sons", "van der Berg ", "Smith-O'Neil", "Lee+Park", "%20", "Ng", "St. John", "李")
PLACES: tuple[tuple[str, str, str, str], ...] = (
    ("Moorestown", "NJ", "08057", "America/New_York"),
    ("Richmond", "VA", "23220", "America/New_York"),
    ("Asheville", "NC", "28801", "America/New_York"),
    ("Portland", "ME", "04101", "America/New_York"),
    ("Columbus", "OH", "43215", "America/New_York"),
    ("Sioux Falls", "SD", "57108", "America/Chicago"),
    ("Austin", "TX", "78701", "America/Chicago"),
    ("Madison", "WI", "53703", "America/Chicago"),
    ("Boulder", "CO", "80302", "America/Denver"),
    ("Bozeman", "MT", "59715", "America/Denver"),
    ("Flagstaff", "AZ", "86001", "America/Phoenix"),
    ("Bend", "OR", "97701", "America/Los_Angeles"),
    ("Spokane", "WA", "99201", "America/Los_Angeles"),
    ("Kailua", "HI", "96734", "Pacific/Honolulu"),
)
_STREETS = ("Avondale Ave", "N. Main St.", "14th Avenue", "Mill Rd #2", "Calle Río", "Elm Street / Apt 4")
_SIZES = ("S", "M", "L", "XL", "2XL")
QUESTIONS: tuple[tuple[int | str, str], ...] = (
    ("1", "Is this your first road race?"),
    (2, "Emergency Contact Name"),
    (3, "Emergency Contact Phone"),
    (4, "Which of these apply to you? Choose all that fit."),
    ("5", "How did you hear about this race?"),
    (6, "Do you have a medical condition that the medical team should know of? (Shown to the medical team only.)"),
    (7, "What is your expected finish time?"),
    ("8", "Would you like to receive race updates by text message on race day?"),
)
QUESTION_LIST: list[dict[str, Any]] = [
    {
        "question_id": int(question_id),
        "question_text": wording,
        "question_type_code": "C" if question_id == 4 else "F",
        "question_validation_type": "none",
    }
    for question_id, wording in QUESTIONS
]
ADDON_LIST: list[dict[str, Any]] = [
    {"addon_id": 7, "addon_name": "Parking"},
    {"addon_id": 8, "addon_name": "Pasta dinner & drink"},
]
_HEARD = ("A friend", "Running store", "Facebook / Instagram", "  Last year's race ", "Local paper", None)
_CHOICES = ("Vegetarian", "Needs a ride", "Runs with a stroller", "Will volunteer")


def person(rng: random.Random, user_id: int | None, *, minimum_age: int = 8, today: date) -> Person:
    """Return a person, now and then an odd one."""
    odd = rng.random()
    first = rng.choice(ODD_FIRST) if odd < 0.03 else rng.choice(FIRST)
    last = rng.choice(ODD_LAST) if 0.02 < odd < 0.05 else rng.choice(LAST)
    city, state, zipcode, _ = rng.choice(PLACES)
    gender = rng.choices(("F", "M", "X", None), (50, 46, 3, 1))[0]
    born = date(today.year - rng.randint(minimum_age, 78), rng.randint(1, 12), rng.randint(1, 28))
    number = rng.randrange(10_000)
    return Person(
        {
            "user_id": user_id,
            "first_name": first,
            "middle_name": rng.choice(("J", "Lee", "")) if rng.random() < 0.2 else None,
            "last_name": last,
            "email": f"runner{rng.randrange(10**7)}@example.com" if rng.random() < 0.97 else None,
            "address": {
                "street": f"{number} {rng.choice(_STREETS)}" if rng.random() < 0.95 else None,
                "city": city,
                "state": state,
                "zipcode": zipcode,
                "country_code": "US" if rng.random() < 0.98 else "CA",
            },
            "dob": born.isoformat() if rng.random() < 0.98 else None,
            "gender": gender,
            "phone": f"555-{rng.randrange(200, 999)}-{number:04d}" if rng.random() < 0.9 else None,
            "profile_image_url": None,
            "is_anonymous": "T" if rng.random() < 0.02 else "F",
        }
    )


def twin(rng: random.Random, other: Person) -> Person:
    """Return another child of the same account, with the same birthday and sometimes the same name."""
    data = dict(other.data)
    if rng.random() < 0.5:
        data["first_name"] = rng.choice(FIRST)
    return Person(data)


def age_on(dob: object, day: date | None) -> int | None:
    """Return whole years on a day, None where either is unknown."""
    if not isinstance(dob, str) or day is None:
        return None
    try:
        born = date.fromisoformat(dob)
    except ValueError:
        return None
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


def rest(rng: random.Random, *, row_bytes: int = 2000) -> Rest:
    """Return fees, giveaway, answers and add-ons, so large that a row is about `row_bytes` of JSON."""
    fee = rng.choice((2500, 3500, 5500, 7500, 12000, 105500))
    processing = fee * 5 // 100
    addons: list[dict[str, Any]] = []
    if rng.random() < 0.3:
        addons.append({"addon_id": "7", "addon_name": "Parking", "quantity": "1", "amount": "$5.00"})
    if rng.random() < 0.1:
        addons.append({"addon_id": 8, "addon_name": "Pasta dinner & drink", "quantity": 2, "amount": "$1,024.00"})
    contact = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    answers: dict[int | str, Any] = {
        "1": rng.choice(("Yes", "No")),
        2: f" {contact} " if rng.random() < 0.1 else contact,
        3: f"555-{rng.randrange(200, 999)}-{rng.randrange(10_000):04d}" if rng.random() < 0.9 else None,
        4: rng.sample(_CHOICES, rng.randint(0, 3)),
        "5": rng.choice(_HEARD),
        6: rng.choice(("No", "Asthma", "Allergic to bees", None)),
        7: f"0{rng.randint(0, 5)}:{rng.randint(0, 59):02d}:00",
        "8": rng.choice(("Yes", "No")),
    }
    choice = rng.randrange(len(_SIZES))
    data: dict[str, Any] = {
        "imported": "T" if rng.random() < 0.03 else "F",
        "race_fee": money(fee),
        "offline_payment_amount": "$0.00",
        "processing_fee": money(processing),
        "processing_fee_paid_by_user": money(processing),
        "processing_fee_paid_by_race": "$0.00",
        "partner_fee": "$0.75",
        "affiliate_profit": "$0.00",
        "extra_fees": money(-500) if rng.random() < 0.02 else "$0.00",
        "amount_paid": money(fee + processing),
        "usatf_discount_amount_in_cents": "$0.00",
        "usatf_discount_additional_field": None,
        "giveaway": _SIZES[choice] if rng.random() < 0.9 else None,
        "giveaway_option_id": choice + 1,
        "question_responses": [
            {
                "question_id": question_id,
                "question_text": wording,
                ("responses" if isinstance(answers[question_id], list) else "response"): answers[question_id],
            }
            for question_id, wording in QUESTIONS
        ],
        "participant_addons": addons,
        "corral_id": rng.randint(1, 4),
        "corral_name": f"Wave {rng.randint(1, 4)}",
        "registration_notes": None,
        "est_finish_time": answers[7],
    }
    made = Rest(data)
    # 800 bytes: the person and the registration's own piece.
    missing = row_bytes - 800 - len(made.written(255))
    if missing > 0:
        data["question_responses"][5]["response"] = ("No. " * (missing // 4 + 1))[:missing]
        made = Rest(data)
    return made
