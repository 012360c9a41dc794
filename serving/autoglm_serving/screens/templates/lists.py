"""Pages that are lists: settings, mail, alarms, news under tabs, chats."""

from html import escape

from autoglm_serving.screens import words
from autoglm_serving.screens.icons import icon_svg
from autoglm_serving.screens.scene import ACCENTS, Scene, checkbox, icon, part, toggle
from autoglm_serving.screens.templates.pieces import avatar, bottom_tabs, top_bar


def settings(scene: Scene) -> str:
    """Grouped settings: rows with switches or arrows."""
    dice = scene.dice
    groups = []
    for _ in range(3 if not scene.wide else 4):
        rows = []
        for name in scene.words(words.SETTINGS, dice.between(3, 5)):
            lead = (
                f'<div class="lead" style="background:{dice.pick(ACCENTS)}'
                f'">{icon_svg(dice.pick(("gear", "bell", "lock", "wifi", "moon", "user")))}</div>'
            )
            below = scene.say("Tap to change", "点按更改") if dice.chance(25) else ""
            text = (
                f'<div class="g"><div>{escape(name)}</div>'
                + (f'<div class="s">{below}</div>' if below else "")
                + "</div>"
            )
            if dice.chance(50):
                rows.append(f'<div class="row">{lead}{text}{toggle(name, dice.chance(30))}</div>')
            else:
                rows.append(
                    part("row", name, f'{lead}{text}<span class="dim">{icon_svg("chevron", "1em")}</span>', css="row")
                )
        groups.append(f'<div class="group">{"".join(rows)}</div>')
    lead_icon = "back" if dice.chance(60) else "menu"
    bar = top_bar(scene, scene.say("Settings", "设置"), lead=lead_icon, tools=("search",))
    return f'{bar}<div class="main"><div class="scroll">{"".join(groups)}</div></div>'


def mail(scene: Scene) -> str:
    """An inbox with senders, subjects and a button to write."""
    dice = scene.dice
    rows = []
    subjects = scene.words(words.SUBJECTS, 14)
    senders = scene.words(words.PEOPLE, len(subjects))
    for sender, subject in zip(senders, subjects, strict=True):
        star = icon_svg("star", "1.2em") if dice.chance(40) else ""
        weight = "b" if dice.chance(40) else ""
        inner = (
            f'{avatar(scene, sender)}<div class="g"><div class="flow"><div class="grow {weight}">{escape(sender)}</div>'
            f'<div class="dim small">{scene.clock()}</div></div><div class="{weight}">{escape(subject)}</div>'
            f"</div>{star}"
        )
        rows.append(part("row", subject, inner, css="row"))
    chips = "".join(
        part("chip", name, css=f"chip {'on' if number == 0 else ''}")
        for number, name in enumerate(scene.say("Primary,Unread,Flagged,Files", "主要,未读,已标记,有附件").split(","))
    )
    bar = top_bar(scene, scene.say("Inbox", "收件箱"), lead="menu", tools=("search", "more"))
    fab = part("icon", scene.icon_name("edit"), icon_svg("edit"), css="fab")
    return (
        f'{bar}<div class="chips">{chips}</div><div class="main"><div class="scroll">{"".join(rows)}</div>{fab}</div>'
    )


def alarms(scene: Scene) -> str:
    """Alarms, each with a time and a switch."""
    dice = scene.dice
    names = scene.words(words.ALARMS, dice.between(4, 8))
    lit = dice.below(len(names)) if dice.chance(50) else -1
    rows = []
    for number, name in enumerate(names):
        on = number == lit if lit >= 0 else dice.chance(50)
        inner = f'<div class="grow"><div class="big">{scene.clock()}</div><div class="dim">{escape(name)}</div></div>'
        rows.append(f'<div class="card flow" style="margin:0 14px 12px">{inner}{toggle(name, on)}</div>')
    bar = top_bar(scene, scene.say("Alarms", "闹钟"), tools=("add", "more"))
    places = scene.say("Alarm,World clock,Stopwatch,Timer", "闹钟,世界时钟,秒表,计时器").split(",")
    return (
        f'{bar}<div class="main"><div class="scroll">{"".join(rows)}</div>'
        f"</div>{bottom_tabs(places, ('bell', 'home', 'refresh', 'calendar'))}"
    )


def news(scene: Scene) -> str:
    """Tabs above a list of articles."""
    dice = scene.dice
    names = scene.words(words.TABS, 9 if scene.wide else 4)
    chosen = dice.below(len(names))
    tabs = "".join(
        part("tab", name, css=f"tab {'on' if number == chosen else ''}", state="selected" if number == chosen else "")
        for number, name in enumerate(names)
    )
    items = []
    for title in scene.words(words.HEADLINES, 12):
        hue = dice.below(360)
        thumb = (
            f'<div style="width:92px;height:64px;border-radius:var(--r);background:linear-gradient(hsl({hue}'
            f' 50% 60%),hsl({(hue + 40) % 360} 50% 40%))"></div>'
        )
        source = f'<div class="s">{dice.between(2, 59)} {scene.say("min ago", "分钟前")}</div>'
        items.append(
            part("row", title, f'<div class="g"><div class="b">{escape(title)}</div>{source}</div>{thumb}', css="row")
        )
    bar = top_bar(scene, scene.say("Today", "今日要闻"), lead="menu", tools=("search", "bell"))
    return f'{bar}<div class="tabs">{tabs}</div><div class="main"><div class="scroll">{"".join(items)}</div></div>'


def chats(scene: Scene) -> str:
    """A list of conversations."""
    dice = scene.dice
    rows = []
    for person in scene.words(words.PEOPLE, 13):
        count = f'<span class="chip on small">{dice.between(1, 9)}</span>' if dice.chance(30) else ""
        inner = (
            f'{avatar(scene, person)}<div class="g"><div class="b">{escape(person)}</div>'
            f'<div class="s">{escape(dice.pick(words.CHATS)[0 if scene.language == "en" else 1])}</div></div>'
            f'<div class="dim small">{scene.clock()}</div>{count}'
        )
        rows.append(part("row", person, inner, css="row"))
    bar = top_bar(scene, scene.say("Chats", "聊天"), tools=("search", "add"))
    names = scene.say("Chats list,People,Explore,Account", "消息,联系人,发现,账户").split(",")
    return (
        f'{bar}<div class="main"><div class="scroll">{"".join(rows)}</div>'
        f"</div>{bottom_tabs(names, ('envelope', 'user', 'layers', 'gear'))}"
    )


def preferences(scene: Scene) -> str:
    """Check boxes and radio buttons under headings."""
    dice = scene.dice
    boxes = "".join(checkbox(name, dice.chance(40)) for name in scene.words(words.SETTINGS, dice.between(4, 7)))
    choices = scene.words(words.TABS, dice.between(3, 5))
    chosen = dice.below(len(choices))
    radios = "".join(checkbox(name, number == chosen, role="radio") for number, name in enumerate(choices))
    apply, reset = scene.words(words.ACTIONS, 2)
    bar = top_bar(scene, scene.say("Preferences", "偏好"), tools=("help",))
    ends = (
        f'<div class="flow end pad">{part("button", reset, css="button soft")}'
        f"{part('button', apply, css='button')}</div>"
    )
    return (
        f'{bar}<div class="main"><div class="head">{scene.say("Features", "功能")}</div><div class="group">{boxes}</div>'
        f'<div class="head">{scene.say("Start page", "起始页")}</div><div class="group">{radios}</div>{ends}</div>'
    )


def downloads(scene: Scene) -> str:
    """Running and finished downloads; each row carries its own icon."""
    dice = scene.dice
    rows = []
    for number, name in enumerate(scene.words(words.FILES, 11)):
        done = dice.between(5, 95)
        tool = icon(scene, ("pause", "refresh", "trash")[number]) if number < 3 else ""
        progress = (
            '<div style="height:5px;border-radius:3px;background:var(--soft);margin-top:6px">'
            f'<div style="height:5px;border-radius:3px;width:{done}%;background:var(--accent)"></div></div>'
        )
        lead = f'<div class="lead">{icon_svg("download")}</div>'
        inner = (
            f'{lead}<div class="g"><div>{escape(name)}'
            f'</div>{progress if number < 3 else f"""<div class="s">{done} MB</div>"""}</div>'
        )
        rows.append(
            '<div class="flow" style="gap:0;'
            f'border-bottom:1px solid var(--line)">{part("row", name, inner, css="row grow", style="border:0")}'
            f"{tool}</div>"
        )
    bar = top_bar(scene, scene.say("Downloads", "下载管理"), tools=("filter", "more"))
    return f'{bar}<div class="main"><div class="scroll">{"".join(rows)}</div></div>'
