"""What the prompts are about: a request and a topic. A topic is of the training part or of the held-out part."""

from __future__ import annotations

REQUESTS = (
    "Tell me about {topic}.",
    "Describe {topic}.",
    "Explain {topic} to a child.",
    "Why do people care about {topic}?",
    "What is good about {topic}?",
    "What should I know about {topic}?",
    "Give some advice about {topic}.",
    "Write a short text about {topic}.",
    "What comes to your mind when you think of {topic}?",
    "How would you introduce a friend to {topic}?",
)
TOPICS = (
    "bread", "the moon", "bicycles", "sleep", "winter", "dogs", "gardening", "the ocean", "trains", "libraries",
    "coffee", "mountains", "birthdays", "chess", "rain", "cooking at home", "birds", "public parks", "music", "bees",
    "a good breakfast", "swimming", "old photographs", "rivers", "football", "painting", "honesty", "forests",
    "learning a language", "clouds", "friendship", "tea", "museums", "running", "volcanoes", "cats", "markets",
    "reading books", "bridges", "the desert", "patience", "camping", "apples", "teachers", "whales", "windmills",
    "a walk in the city", "chocolate", "fire fighters", "the stars", "knitting", "elephants", "farms", "clocks",
    "kindness", "islands", "pottery", "nurses", "soup", "dancing", "dinosaurs", "maps", "rice", "lighthouses",
    "saving money", "spring", "horses", "theatre", "electric cars", "snow", "a job interview", "bridges of stone",
    "doctors", "wool", "penguins", "waterfalls", "cheese", "healthy habits", "the piano", "butterflies",
    "travelling by train", "school", "tomatoes", "autumn", "castles", "robots", "the violin", "sharing a flat",
    "lemons", "tigers", "drawing", "working from home", "thunderstorms", "potatoes", "boats", "recycling",
    "the sun", "grandparents", "cycling to work", "photography",
)  # fmt: skip
HELD_OUT_EVERY = 5


def topics(*, held_out: bool) -> tuple[str, ...]:
    """Every fifth topic is held out, so that no subject of the held-out part is ever trained on."""
    return tuple(topic for place, topic in enumerate(TOPICS) if (place % HELD_OUT_EVERY == 0) == held_out)
