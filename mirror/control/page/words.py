"""What the page says, in the languages that it speaks."""

from collections.abc import Mapping
from types import MappingProxyType

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)

_CHINESE: Mapping[str, str] = MappingProxyType(
    {
        "Now": "实时",
        "Endpoints": "上游节点",
        "Store": "存储",
        "All is well.": "一切正常。",
        "Needs attention": "需要处理",
        "Served": "已提供",
        "Fetched": "已拉取",
        "Saved": "已节省",
        "Hits": "命中率",
        "of {count} lookups": "共 {count} 次查询",
        "since the start, {duration} ago": "自 {duration} 前启动以来",
        "in {count} requests": "共 {count} 次请求",
        "from upstream": "来自上游",
        "The line": "线路",
        "{rate}/s from upstream now": "当前从上游 {rate}/s",
        "the last two minutes": "最近两分钟",
        "Downloads": "下载",
        "Nothing is being downloaded.": "当前没有下载任务。",
        "{count} wait for a slot": "{count} 个在排队",
        "Repository": "仓库",
        "Digest": "摘要",
        "Progress": "进度",
        "Rate": "速率",
        "Left": "剩余时间",
        "Readers": "读取者",
        "State": "状态",
        "Upstream": "上游",
        "Endpoint": "节点",
        "Received": "已接收",
        "Pulls left": "剩余拉取次数",
        "up": "正常",
        "down": "不可用",
        "limited": "被限速",
        "sealed: never asked": "已封存：从不询问",
        "again in {duration}": "{duration} 后重试",
        "Used": "已使用",
        "Limit": "上限",
        "Free on the disk": "磁盘剩余",
        "kept free": "保留空间",
        "Blobs": "数据块",
        "Where": "位置",
        "Connections": "连接数",
        "This page is no longer up to date: the mirror does not answer. It tries again by itself.":
            "页面已不是最新：镜像服务没有响应，正在自动重试。",
        "Skip to the content": "跳到正文",
        "unknown": "未知",
        "Pinned images": "固定的镜像",
        "Nothing is pinned.": "没有固定的镜像。",
        "Image": "镜像",
        "Here": "本地大小",
        "Pinned by": "来源",
        "the configuration": "配置文件",
        "an operator": "管理员",
        "complete": "完整",
        "incomplete": "不完整",
        "refused": "被拒绝",
        "Unpin": "取消固定",
        "Unpin {image}": "取消固定 {image}",
        "Fetched by the clock": "定时预热",
        "When": "时间",
        "Next": "下次",
        "The last time": "上次结果",
        "in {duration}": "{duration} 后",
        "is running": "正在运行",
        "{count} images, {size} came": "{count} 个镜像，拉取了 {size}",
        "{count} failed": "{count} 个失败",
        "Pin, fetch or remove an image": "固定、预热或删除镜像",
        "Pin": "固定",
        "Fetch now": "立即预热",
        "Remove": "删除",
        "It is under way, or done.": "已开始或已完成。",
        "The mirror does not answer.": "镜像服务没有响应。",
    }
)  # fmt: skip


def choose(wanted: str | None, accepted: str | None) -> str:
    """The language that a browser is answered in: as asked for, else the first it accepts."""
    if wanted in LANGUAGES:
        return wanted
    for part in (accepted or "").split(","):
        language = part.partition(";")[0].strip().partition("-")[0].lower()
        if language in LANGUAGES:
            return language
    return ENGLISH


def say(language: str, phrase: str, **values: object) -> str:
    """A phrase in a language, with values put in."""
    text = _CHINESE.get(phrase, phrase) if language == CHINESE else phrase
    return text.format(**values) if values else text
