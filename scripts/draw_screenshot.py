"""Draw examples/screenshot.png: the settings screen of a phone, 1080x2400, with nothing in it that belongs to anybody."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (1080, 2400)
ROWS = (
    ("Wi-Fi", "Connected", "#3b82f6"),
    ("Bluetooth", "Off", "#6366f1"),
    ("Mobile network", "5G", "#10b981"),
    ("Display", "Brightness, dark mode", "#f59e0b"),
    ("Sound", "Ringtone, vibration", "#ef4444"),
    ("Notifications", "12 apps", "#ec4899"),
    ("Battery", "78 %", "#22c55e"),
    ("Storage", "64 of 128 GB used", "#8b5cf6"),
    ("Location", "On", "#0ea5e9"),
    ("About phone", "Version 15", "#64748b"),
)
ROW_HEIGHT, TOP, MARGIN = 180, 420, 48
INK, GREY, PAPER, CARD = "#111827", "#6b7280", "#f3f4f6", "#ffffff"


def draw() -> Image.Image:
    """The screen, in few enough colours to be small as a PNG."""
    image = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, 36), "18:30", INK, _font(42))
    pen.rounded_rectangle((960, 40, 1032, 78), 8, outline=INK, width=4)
    pen.rectangle((968, 48, 1010, 70), fill=INK)
    pen.text((MARGIN, 150), "Settings", INK, _font(96))
    pen.rounded_rectangle((MARGIN, 290, 1080 - MARGIN, 380), 45, fill="#e5e7eb")
    pen.text((MARGIN + 50, 310), "Search settings", GREY, _font(40))
    for position, row in enumerate(ROWS):
        _row(pen, TOP + position * ROW_HEIGHT, *row)
    pen.rounded_rectangle((390, 2364, 690, 2374), 5, fill=INK)
    return image.quantize(64, dither=Image.Dither.NONE)


def _row(pen: ImageDraw.ImageDraw, top: int, title: str, state: str, colour: str) -> None:
    pen.rounded_rectangle((MARGIN, top, 1080 - MARGIN, top + ROW_HEIGHT - 16), 32, fill=CARD)
    pen.ellipse((MARGIN + 36, top + 36, MARGIN + 128, top + 128), fill=colour)
    pen.text((MARGIN + 170, top + 30), title, INK, _font(46))
    pen.text((MARGIN + 170, top + 92), state, GREY, _font(34))
    pen.line([(940, top + 58), (964, top + 82), (940, top + 106)], fill=GREY, width=6)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    draw().save(Path(__file__).resolve().parent.parent / "examples/screenshot.png", optimize=True)
