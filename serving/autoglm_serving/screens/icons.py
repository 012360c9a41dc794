"""Line icons, drawn here for this project: a path in a square of 24 units, and the icon's name in both languages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Icon:
    """What to draw and what to call it."""

    english: str
    chinese: str
    path: str


def _circle(x: float, y: float, r: float) -> str:
    return f"M{x - r} {y}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"


_SUN = _circle(12, 12, 3.2) + "M12 2v4M12 18v4M2 12h4M18 12h4"

ICONS: dict[str, Icon] = {
    "back": Icon("Back", "返回", "M20 12H4M11 5l-7 7 7 7"),
    "search": Icon("Search", "搜索", _circle(10.5, 10.5, 6.5) + "M15.5 15.5L21 21"),
    "menu": Icon("Menu", "菜单", "M3 6h18M3 12h18M3 18h18"),
    "more": Icon("More", "更多", _circle(12, 5, 1.4) + _circle(12, 12, 1.4) + _circle(12, 19, 1.4)),
    "close": Icon("Close", "关闭", "M5 5l14 14M19 5L5 19"),
    "add": Icon("Add", "添加", "M12 4v16M4 12h16"),
    "home": Icon("Home", "主页", "M3 11l9-8 9 8M6 9v11h12V9M10 20v-6h4v6"),
    "heart": Icon("Like", "喜欢", "M12 20C4 14 3 10 4 7c2-4 6-3 8 0 2-3 6-4 8 0 1 3 0 7-8 13z"),
    "share": Icon("Share", "分享", "M12 15V3M7 7l5-5 5 5M5 12v9h14v-9"),
    "gear": Icon("Settings", "设置", _SUN + "M5 5l3 3M16 16l3 3M19 5l-3 3M8 16l-3 3"),
    "trash": Icon("Delete", "删除", "M4 6h16M9 6V3h6v3M6 6l1 15h10l1-15M10 10v7M14 10v7"),
    "edit": Icon("Edit", "编辑", "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4"),
    "camera": Icon("Camera", "相机", "M3 7h4l2-3h6l2 3h4v13H3z" + _circle(12, 13, 4)),
    "mic": Icon("Voice input", "语音", "M9 4h6v9H9zM5 11c0 9 14 9 14 0M12 18v4M8 22h8"),
    "send": Icon("Send", "发送", "M3 11L21 3l-7 18-3-8zM11 13L21 3"),
    "star": Icon("Favourite", "收藏", "M12 2l3 7 7 .6-5.4 4.7L18.300 21 12 17l-6.300 4 1.700-6.700L2 9.600 9 9z"),
    "bell": Icon("Alerts", "提醒", "M5 17h14l-2-3V9c0-7-10-7-10 0v5zM10 20h4"),
    "user": Icon("Profile", "我的", _circle(12, 8, 4) + "M4 21c0-9 16-9 16 0"),
    "phone": Icon("Call", "拨号", "M5 3h4l2 5-3 2c1 3 3 5 6 6l2-3 5 2v4c-9 4-20-7-16-16z"),
    "envelope": Icon("Inbox", "收件箱", "M3 5h18v14H3zM3 6l9 8 9-8"),
    "play": Icon("Play", "播放", "M7 4l13 8-13 8z"),
    "pause": Icon("Pause", "暂停", "M8 4v16M16 4v16"),
    "next": Icon("Next track", "下一首", "M5 4l10 8-10 8zM18 4v16"),
    "previous": Icon("Previous track", "上一首", "M19 4L9 12l10 8zM6 4v16"),
    "repeat": Icon("Repeat", "循环播放", "M4 11V7h14M15 4l3 3-3 3M20 13v4H6M9 20l-3-3 3-3"),
    "shuffle": Icon("Shuffle", "随机播放", "M3 6h4l9 12h5M3 18h4l3-4M13 9l3-3h5M18 3l3 3-3 3M18 15l3 3-3 3"),
    "download": Icon("Download", "下载", "M12 3v12M6 10l6 6 6-6M4 21h16"),
    "cart": Icon("Cart", "购物车", "M2 3h3l3 12h11l2-9H6" + _circle(9, 19, 1.6) + _circle(17, 19, 1.6)),
    "pin": Icon("My location", "我的位置", "M12 22C4 13 5 3 12 3s8 10 0 19z" + _circle(12, 10, 2.5)),
    "calendar": Icon("Calendar", "日历", "M4 5h16v16H4zM4 10h16M8 2v5M16 2v5"),
    "lock": Icon("Lock", "锁定", "M5 11h14v10H5zM8 11V7c0-6 8-6 8 0v4"),
    "picture": Icon("Picture", "图片", "M3 4h18v16H3zM3 17l6-6 5 5 3-3 4 4" + _circle(16, 8, 1.5)),
    "filter": Icon("Filter", "筛选", "M3 5h18M6 12h12M10 19h4"),
    "layers": Icon("Layers", "图层", "M12 3l9 5-9 5-9-5zM3 13l9 5 9-5"),
    "smile": Icon("Emoji", "表情", _circle(12, 12, 9) + _circle(9, 10, 0.6) + _circle(15, 10, 0.6) + "M8 14c2 4 6 4 8 0"),
    "refresh": Icon("Refresh", "刷新", "M20 12a8 8 0 1 1-3-6.200M20 3v5h-5"),
    "moon": Icon("Night mode", "夜间模式", "M20 14A9 9 0 1 1 10 4c0 6 4 10 10 10z"),
    "help": Icon("Help", "帮助", _circle(12, 12, 9) + "M9 9c0-4 6-4 6 0 0 2-3 2-3 5M12 17v1"),
    "check": Icon("Accept", "确定", "M4 12l6 6L20 6"),
    "chevron": Icon("Forward", "前进", "M9 5l7 7-7 7"),
    "video": Icon("Video call", "视频通话", "M3 6h12v12H3zM15 11l6-4v10l-6-4z"),
    "folder": Icon("Folder", "文件夹", "M3 5h7l2 3h9v12H3z"),
    "print": Icon("Printer", "打印机", "M7 8V3h10v5M4 8h16v9H4zM7 14h10v7H7z"),
    "zoom-in": Icon("Zoom in", "放大", _circle(10.5, 10.5, 6.5) + "M15.500 15.500L21 21M10.500 7.500v6M7.500 10.500h6"),
    "zoom-out": Icon("Zoom out", "缩小", _circle(10.5, 10.5, 6.5) + "M15.500 15.500L21 21M7.500 10.500h6"),
    "backspace": Icon("Backspace", "退格", "M8 5h13v14H8l-6-7zM11 9l6 6M17 9l-6 6"),
    "wifi": Icon("Signal", "信号", "M2 9c6-6 14-6 20 0M6 13c4-4 8-4 12 0M10 17c2-2 2-2 4 0"),
}  # fmt: skip


def icon_svg(name: str, size: str = "1.5em") -> str:
    """The icon as inline SVG in the colour of the text around it."""
    return (
        f'<svg class="i" viewBox="0 0 24 24" width="{size}" height="{size}" fill="none" stroke="currentColor" '
        f'stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"><path d="{ICONS[name].path}"/></svg>'
    )
